# Faults on purpose: fault_preload.so for LD_PRELOAD, and malloc_fail and malloc_serve, in which every
# allocation of replog's own code fails once (the linker's --wrap leaves other libraries' alone).
add_library(fault_preload MODULE fault_preload.c)
target_compile_options(fault_preload PRIVATE -Wall -Wextra -Wshadow -Wconversion -Werror)
target_compile_definitions(fault_preload PRIVATE _GNU_SOURCE)
target_link_libraries(fault_preload PRIVATE ${CMAKE_DL_LIBS})
set_target_properties(fault_preload PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY
                      ${CMAKE_BINARY_DIR}/tests)

# malloc_fail_program(NAME SOURCES... LIBRARIES... WRAP FUNCTIONS...)
function(malloc_fail_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES;WRAP" ${ARGN})
  add_executable(${name} malloc_fail.c fail_alloc.c ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBRARIES} replog_options)
  # each call by which replog's own code allocates
  foreach(call malloc calloc realloc aligned_alloc free strdup strndup
          protobuf_c_message_free_unpacked ${ARG_WRAP})
    target_link_options(${name} PRIVATE -Wl,--wrap=${call})
  endforeach()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} --sample 60)
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT 300)
endfunction()

malloc_fail_program(malloc_fail
  SOURCES malloc_wal.c malloc_apply.c malloc_net.c malloc_server.c
  LIBRARIES replog_node replog_client)

# replogd's services in one thread; what stands for nng, clock and threads is linked before them.
set(stage ${CMAKE_SOURCE_DIR}/tests/stage)
malloc_fail_program(malloc_serve
  SOURCES malloc_serve.c malloc_caller.c ${stage}/node_stage.c ${stage}/services.c ${stage}/fake_net.c
  LIBRARIES replog_server WRAP nghttp2_session_server_new2)
target_include_directories(malloc_serve PRIVATE ${stage} ${CMAKE_SOURCE_DIR})
