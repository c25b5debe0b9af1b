/* cli.h: what the commands of `replog` share. Hides: options that every command takes, how failures
 * and progress are told. */
#ifndef CLIENT_CLI_H
#define CLIENT_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/bytes.h"
#include "replog/client.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli {
    const char *endpoints; /* -e, REPLOG_ENDPOINTS, or the default */
    bool json;
    uint32_t timeout_ms;   /* 0: the library's */
    bool help;             /* --help was among the options */
    replog_client *client; /* after cli_connect; closed by main */
};

/* Commands: argv[0] is the command's name. They return an exit status. */
int cmd_append(struct cli *cli, int argc, char **argv);
int cmd_get(struct cli *cli, int argc, char **argv);
int cmd_read(struct cli *cli, int argc, char **argv);
int cmd_checkpoint(struct cli *cli, int argc, char **argv);
int cmd_truncate(struct cli *cli, int argc, char **argv);
int cmd_status(struct cli *cli, int argc, char **argv);
int cmd_bench(struct cli *cli, int argc, char **argv);
int cmd_wal(struct cli *cli, int argc, char **argv);
int cmd_dev(struct cli *cli, int argc, char **argv);

extern const char help_append[], help_get[], help_read[], help_checkpoint[], help_truncate[],
    help_status[], help_bench[], help_wal[], help_dev[];

/* getopt_long over the command's own options and those that every command takes (-e, --json,
 * --timeout, --help, which it handles itself). Returns an own option's val, -1 at the end, '?' for
 * wrong usage (already told). After the end, cli->help asks for the help text. `own` ends with a
 * zero entry, at most 16. */
int cli_option(struct cli *cli, int argc, char **argv, const struct option *own);
/* Whole decimal number from `low` to `high`; false (and told on stderr) otherwise. */
bool cli_number(const char *name, const char *text, uint64_t low, uint64_t high, uint64_t *value);
/* "leader", "quorum", "all". */
bool cli_ack(const char *text, replog_ack *ack);
/* Says what is wrong with the command line; CLI_USAGE. */
int cli_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Says why the operation failed: CLI_FAILED. */
int cli_failed(replog_status status, const char *text);

/* Opens cli->client; CLI_DONE or what to exit with. `options` may be NULL; its timeout is set. */
int cli_connect(struct cli *cli, const replog_client_options *options);

/* One line to stdout: the buffer's bytes and a newline. False when stdout is gone. */
bool cli_print(struct buffer *line);
/* Everything printed has arrived: CLI_DONE, or told and CLI_FAILED. */
int cli_finish_output(void);
/* [1,2,3] */
void cli_json_ids(struct buffer *b, const uint64_t *ids, uint32_t n);
void cli_json_holders(struct buffer *b, const replog_holder *holders, uint32_t n);

/* One record as `read` and `wal dump` show it. */
void cli_entry(struct buffer *line, const replog_entry *e, bool json);

/* Progress on stderr when that is a terminal, at most four times a second. */
struct progress {
    bool on;
    uint64_t start_ms, next_ms;
};
void progress_start(struct progress *p);
/* True when it is time for a line; the caller then prints one with progress_line. */
bool progress_due(struct progress *p);
void progress_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
void progress_end(const struct progress *p);

/* SIGINT, SIGTERM and SIGHUP set this, once cli_catch_signals was called. */
bool cli_interrupted(void);
void cli_catch_signals(void);
/* From now on a signal ends the process, as if none had been caught. */
void cli_release_signals(void);

#endif
