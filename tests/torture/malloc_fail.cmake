# Faults on purpose: fault_preload.so for LD_PRELOAD, and malloc_fail, in which every allocation of
# replog's own code fails once (the linker's --wrap leaves other libraries' alone).
add_library(fault_preload MODULE fault_preload.c)
target_compile_options(fault_preload PRIVATE -Wall -Wextra -Wshadow -Wconversion -Werror)
target_compile_definitions(fault_preload PRIVATE _GNU_SOURCE)
target_link_libraries(fault_preload PRIVATE ${CMAKE_DL_LIBS})
set_target_properties(fault_preload PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY
                      ${CMAKE_BINARY_DIR}/tests)

add_executable(malloc_fail malloc_fail.c malloc_wal.c malloc_apply.c malloc_net.c malloc_server.c fail_alloc.c)
target_link_libraries(malloc_fail PRIVATE replog_node replog_client replog_options)
target_link_options(malloc_fail PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free
                    -Wl,--wrap=strdup,--wrap=strndup,--wrap=protobuf_c_message_free_unpacked)
set_target_properties(malloc_fail PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_test(NAME malloc_fail COMMAND malloc_fail --sample 60)
set_tests_properties(malloc_fail PROPERTIES LABELS unit TIMEOUT 300)
