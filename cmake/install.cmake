# Parts of the installation that are made while it runs, because the prefix is not known before: cmake --install takes
# another one than the build was configured with.

# TEMPLATE DESTINATION [KEEP]: install TEMPLATE, without its .in, into DESTINATION below the prefix, or where it says if
# it begins with @CMAKE_INSTALL_FULL_SYSCONFDIR@ or the like: these are, in TEMPLATE too, the directories of the prefix
# that is installed to. KEEP: a file that is there stays as it is.
function(goalloc_install_configured template destination)
  get_filename_component(template ${template} ABSOLUTE)
  get_filename_component(name ${template} NAME_WLE)
  set(settings "set(PROJECT_VERSION [[${PROJECT_VERSION}]])\n")
  foreach(dir BINDIR SBINDIR LIBDIR LIBEXECDIR SYSCONFDIR LOCALSTATEDIR RUNSTATEDIR DATADIR DOCDIR MANDIR)
    string(APPEND settings "set(CMAKE_INSTALL_${dir} [[${CMAKE_INSTALL_${dir}}]])\n")
  endforeach()
  install(CODE "${settings}
    set(goalloc_template [[${template}]])
    set(goalloc_file [[${destination}/${name}]])
    set(goalloc_keep [[${ARGN}]])
    include([[${PROJECT_SOURCE_DIR}/cmake/install_configured.cmake]])")
endfunction()

# The last step, once everything is in its place: have the dynamic linker know the library, or say how programs find it.
function(goalloc_install_last)
  install(CODE "
    set(CMAKE_INSTALL_LIBDIR [[${CMAKE_INSTALL_LIBDIR}]])
    include([[${PROJECT_SOURCE_DIR}/cmake/install_last.cmake]])")
endfunction()
