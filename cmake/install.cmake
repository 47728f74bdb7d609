# Parts of the installation that are made while it runs, because the prefix is not known before: cmake --install takes
# another one than the build was configured with.

# TEMPLATE DESTINATION: install TEMPLATE, without its .in, into DESTINATION below the prefix. What it names as
# @CMAKE_INSTALL_FULL_BINDIR@ and the like are the directories of the prefix that is installed to.
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
    include([[${PROJECT_SOURCE_DIR}/cmake/install_configured.cmake]])")
endfunction()

# The last step, once everything is in its place: have the dynamic linker know the library, or say how programs find it.
function(goalloc_install_last)
  install(CODE "
    set(CMAKE_INSTALL_LIBDIR [[${CMAKE_INSTALL_LIBDIR}]])
    include([[${PROJECT_SOURCE_DIR}/cmake/install_last.cmake]])")
endfunction()
