# Part of the installation: writes goalloc_template to its place, goalloc_file below the prefix (and $DESTDIR).
get_filename_component(prefix "${CMAKE_INSTALL_PREFIX}" ABSOLUTE)
foreach(dir BINDIR SBINDIR LIBDIR LIBEXECDIR SYSCONFDIR LOCALSTATEDIR RUNSTATEDIR DATADIR DOCDIR MANDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${dir}}")
    set(CMAKE_INSTALL_FULL_${dir} "${CMAKE_INSTALL_${dir}}")
  elseif(prefix STREQUAL "/usr" AND dir MATCHES "^(SYSCONF|LOCALSTATE|RUNSTATE)DIR$") # as in GNUInstallDirs
    set(CMAKE_INSTALL_FULL_${dir} "/${CMAKE_INSTALL_${dir}}")
  else()
    set(CMAKE_INSTALL_FULL_${dir} "${prefix}/${CMAKE_INSTALL_${dir}}")
  endif()
endforeach()
message(STATUS "Installing: $ENV{DESTDIR}${prefix}/${goalloc_file}")
configure_file("${goalloc_template}" "$ENV{DESTDIR}${prefix}/${goalloc_file}" @ONLY NO_SOURCE_PERMISSIONS)
list(APPEND CMAKE_INSTALL_MANIFEST_FILES "${prefix}/${goalloc_file}")
