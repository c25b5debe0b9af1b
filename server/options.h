/* options.h: what replogd was told, by flags and by a configuration file.
 * Hides: getopt, inih, how sizes and addresses are spelt.
 *
 * Every flag can be said in the file as `name = value` in section [replogd], with '_' or '-' in the
 * name; flags win over the file, whatever their order. */
#ifndef SERVER_OPTIONS_H
#define SERVER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/log.h"
#include "replog/status.h"
#include "replog/wal.h"
#include "wal/marker.h"

enum {
    OPTIONS_ADDRESS_BYTES = CONFIG_MAX_ADDRESS + 1,
    OPTIONS_PATH_BYTES = 3072 /* room is left for names below it within PATH_MAX */
};

struct options {
    uint64_t id;
    char listen[OPTIONS_ADDRESS_BYTES]; /* the member's own address unless said otherwise */
    char http[OPTIONS_ADDRESS_BYTES];   /* empty: no HTTP page */
    char dir[OPTIONS_PATH_BYTES];
    struct config cluster; /* incarnations 0, everybody a voter */
    replog_sync_mode sync;
    bool insecure, scrub;
    enum log_level log_level;
    uint64_t segment_bytes, pool_segments;
    uint64_t checkpoint_bytes, checkpoint_ms, retain_bytes, retain_ms;
    uint64_t heartbeat_ms, election_ms, stall_ms;
    uint64_t peer_window_bytes, tail_bytes, pending_bytes;
    uint64_t reserve_bytes; /* 0 as given; options_parse fills in the default */
    uint64_t store_write_buffer_bytes, store_block_cache_bytes;
    uint64_t max_connections;
    uint64_t scrub_start_ms;
};

enum options_outcome {
    OPTIONS_RUN,    /* go on with what was parsed */
    OPTIONS_ASKED,  /* --help or --version: was printed on stdout; exit 0 */
    OPTIONS_REFUSED /* err says why; exit 2 */
};

/* Reads flags and file, fills in defaults, checks that it all fits together. */
enum options_outcome options_parse(int argc, char **argv, struct options *options,
                                   replog_error *err);

/* A configuration file's lines into `options` (as options_parse does before the flags).
 * INVALID_ARGUMENT names the line or the key; NOT_FOUND or another status: it cannot be read. */
replog_status options_read_file(const char *path, struct options *options, replog_error *err);

/* "1=HOST:PORT,2=HOST:PORT" into members ascending by id. INVALID_ARGUMENT. */
replog_status options_parse_cluster(const char *text, struct config *cluster, replog_error *err);
/* "64M" -> bytes. K, M and G are powers of 1024. INVALID_ARGUMENT. */
replog_status options_parse_size(const char *text, uint64_t *value, replog_error *err);
/* Splits "HOST:PORT" or "[V6]:PORT"; host has OPTIONS_ADDRESS_BYTES. False: malformed. */
bool options_split_address(const char *address, char *host, uint16_t *port);
/* Whether only this machine can reach it. Names other than localhost count as not. */
bool options_is_loopback(const char *address);

void options_usage(FILE *out);

#endif
