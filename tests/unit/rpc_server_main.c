/* The echo server as a program, for clients that nobody here wrote: prints its address and serves
 * until stdin ends. A line "down" or "up" sets what health tells; "drain" drains. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "rpc_echo.h"

int main(void) {
    char address[64], line[64];
    struct rpc_server *server = echo_start(NULL, address);
    if (!server) return 1;
    printf("%s\n", address);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "up\n") == 0) rpc_server_set_serving(server, true);
        if (strcmp(line, "down\n") == 0) rpc_server_set_serving(server, false);
        if (strcmp(line, "drain\n") == 0) break;
        if (strcmp(line, "counters\n") == 0) {
            printf("%llu %llu\n", (unsigned long long)echo_counters.closed_cancelled,
                   (unsigned long long)echo_counters.closed_deadline);
            fflush(stdout);
        }
    }
    rpc_server_drain(server, 2000);
    _exit(0);
}
