# Installation: the two programs, the public headers, and two static libraries:
#   libreplog.a      the client library and the log (replog/client.h, replog/wal.h)
#   libreplog-wal.a  the log alone, for programs that want no cluster (replog/wal.h)
# A program links one or the other; pkg-config knows what each needs (replog.pc, replog-wal.pc).
# Each archive holds one object in which all names but the public ones (replog_*) are local, so that
# it cannot clash with anything in a user's program.

# replog_public_library(NAME MODULE...): libNAME.a out of the modules' archives.
function(replog_public_library name)
  set(archives)
  foreach(module ${ARGN})
    list(APPEND archives $<TARGET_FILE:${module}>)
  endforeach()
  set(object ${CMAKE_BINARY_DIR}/lib/${name}.o)
  set(archive ${CMAKE_BINARY_DIR}/lib/lib${name}.a)
  add_custom_command(
    OUTPUT ${archive}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/lib
    COMMAND ${CMAKE_LINKER} -r -o ${object} --whole-archive ${archives}
    COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=replog_* ${object}
    COMMAND ${CMAKE_COMMAND} -E rm -f ${archive}
    COMMAND ${CMAKE_AR} qcs ${archive} ${object}
    DEPENDS ${ARGN}
    VERBATIM)
  add_custom_target(${name}_archive ALL DEPENDS ${archive})
  install(FILES ${archive} DESTINATION ${CMAKE_INSTALL_LIBDIR})
endfunction()

# replog_pkg_config(NAME DESCRIPTION REQUIRES LIBS): NAME.pc.
function(replog_pkg_config name description requires libs)
  set(PC_NAME ${name})
  set(PC_DESCRIPTION ${description})
  set(PC_REQUIRES ${requires})
  set(PC_LIBS ${libs})
  # Relative to where the file lies, so that an installed tree can be moved.
  file(RELATIVE_PATH PC_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  configure_file(${CMAKE_SOURCE_DIR}/cmake/replog.pc.in ${CMAKE_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()

# Sanitized objects are for our own tests, not for anybody's program.
if(TARGET replog_client AND NOT REPLOG_SANITIZE AND NOT REPLOG_COVERAGE)
  replog_public_library(replog replog_client replog_rpc replog_proto replog_wal replog_base)
  replog_public_library(replog-wal replog_wal replog_base)
  replog_pkg_config(replog "Client of replog, a replicated write-ahead log"
                    "libnghttp2 libprotobuf-c libxxhash" "-lreplog -lnng -lpthread")
  replog_pkg_config(replog-wal "replog's write-ahead log for one process"
                    "libxxhash" "-lreplog-wal -lpthread")
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/replog DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
          FILES_MATCHING PATTERN "*.h")
  install(FILES ${CMAKE_SOURCE_DIR}/proto/replog.proto
          DESTINATION ${CMAKE_INSTALL_DATADIR}/replog)
endif()

foreach(program replogd replog)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()
install(FILES ${CMAKE_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
foreach(file ARCHITECTURE.md deploy/replogd.conf.example)
  if(EXISTS ${CMAKE_SOURCE_DIR}/${file})
    install(FILES ${CMAKE_SOURCE_DIR}/${file} DESTINATION ${CMAKE_INSTALL_DOCDIR})
  endif()
endforeach()
configure_file(${CMAKE_SOURCE_DIR}/deploy/replogd.service.in
               ${CMAKE_BINARY_DIR}/replogd.service @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/replogd.service DESTINATION lib/systemd/system)
