#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cli.h"

enum { OUTPUT_BYTES = 256 * 1024 };

static const char usage[] =
    "replog: a replicated write-ahead log as a service\n"
    "\n"
    "usage: replog [-e HOST:PORT,...] [--json] [--timeout MS] COMMAND ...\n"
    "\n"
    "  append      append records, one by one or in atomic batches\n"
    "  get         the value of a key in the replayed store\n"
    "  read        the log's records, in order; --follow waits for more\n"
    "  checkpoint  every member flushes its store; a record in the log says so\n"
    "  truncate    drop the head of the log, once every member has absorbed it\n"
    "  status      the cluster, its members, what holds truncation\n"
    "  bench       how fast appends or reads are\n"
    "  wal         verify or dump a log directory, offline\n"
    "  dev         a local cluster in the foreground\n"
    "\n"
    "  -e, --endpoints LIST  nodes to begin with; any of the cluster will do. Without it:\n"
    "                        REPLOG_ENDPOINTS, else 127.0.0.1:7401\n"
    "      --json            one JSON object a line\n"
    "      --timeout MS      for each operation, its retries included (default 10000)\n"
    "      --version         print the version\n"
    "  -h, --help            this text; 'replog COMMAND --help' tells more\n"
    "\n"
    "exit status: 0 done, 1 the operation failed, 2 wrong usage\n";

struct command {
    const char *name;
    int (*run)(struct cli *cli, int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"append", cmd_append, help_append},
    {"get", cmd_get, help_get},
    {"read", cmd_read, help_read},
    {"checkpoint", cmd_checkpoint, help_checkpoint},
    {"truncate", cmd_truncate, help_truncate},
    {"status", cmd_status, help_status},
    {"bench", cmd_bench, help_bench},
    {"wal", cmd_wal, help_wal},
    {"dev", cmd_dev, help_dev},
};

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    optind = 0; /* a new vector: getopt starts afresh */
    int status = command->run(cli, argc, argv);
    if (status == CLI_DONE && cli->help) fputs(command->help, stdout);
    if (status == CLI_DONE) status = cli_finish_output();
    return status;
}

int main(int argc, char **argv) {
    static const struct option own[] = {{"version", no_argument, NULL, 'V'}, {0}};
    const char *from_environment = getenv("REPLOG_ENDPOINTS");
    struct cli cli = {.endpoints = from_environment && *from_environment ? from_environment
                                                                         : "127.0.0.1:7401"};
    if (!isatty(STDOUT_FILENO)) setvbuf(stdout, NULL, _IOFBF, OUTPUT_BYTES);
    setenv("POSIXLY_CORRECT", "1", 1); /* the command's options are the command's */
    for (int option; (option = cli_option(&cli, argc, argv, own)) != -1;) {
        if (option == '?') return CLI_USAGE;
        printf("replog %s\n", REPLOG_VERSION);
        return cli_finish_output();
    }
    unsetenv("POSIXLY_CORRECT");
    if (cli.help) {
        fputs(usage, stdout);
        return cli_finish_output();
    }
    if (optind >= argc) {
        fputs(usage, stderr);
        return CLI_USAGE;
    }
    const char *name = argv[optind];
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, name) != 0) continue;
        int status = run(&cli, &commands[i], argc - optind, argv + optind);
        replog_client_close(cli.client);
        return status;
    }
    fprintf(stderr, "replog: no command '%s'; see replog --help\n", name);
    return CLI_USAGE;
}
