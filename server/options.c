#include "server/options.h"

#include <errno.h>
#include <getopt.h>
#include <ini.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum kind {
    KIND_NUMBER,
    KIND_SIZE,
    KIND_FLAG,
    KIND_SWITCH,
    KIND_TEXT,
    KIND_SYNC,
    KIND_LEVEL,
    KIND_CLUSTER
};

/* One thing that can be said. `offset` is its place in struct options. */
struct spec {
    const char *name; /* with '_' */
    enum kind kind;
    size_t offset, size_bytes; /* size_bytes: room of a text */
    uint64_t low, high;
    const char *argument, *help;
};

#define AT(field)   offsetof(struct options, field)
#define TEXT(field) AT(field), sizeof(((struct options *)0)->field)
#define KIB         UINT64_C(1024)
#define MIB         (KIB * KIB)
#define GIB         (KIB * MIB)
#define HOUR_MS     UINT64_C(3600000)

static const struct spec specs[] = {
    {"id", KIND_NUMBER, AT(id), 0, 1, UINT64_MAX, "N", "this member's id in --cluster"},
    {"listen", KIND_TEXT, TEXT(listen), 0, 0, "HOST:PORT",
     "where clients and peers connect; default: this member's address in --cluster"},
    {"cluster", KIND_CLUSTER, 0, 0, 0, 0, "1=HOST:PORT,...", "every member, this one included"},
    {"dir", KIND_TEXT, TEXT(dir), 0, 0, "DIR", "where the data are; made if absent"},
    {"http", KIND_TEXT, TEXT(http), 0, 0, "HOST:PORT", "status page, /health and /metrics"},
    {"sync", KIND_SYNC, AT(sync), 0, 0, 0, "sync|batch|none",
     "when an append counts as durable; default sync"},
    {"insecure", KIND_FLAG, AT(insecure), 0, 0, 0, NULL,
     "allow to listen beyond loopback, without encryption"},
    {"segment_bytes", KIND_SIZE, AT(segment_bytes), 0, 64 * KIB, GIB, "SIZE",
     "a new log file after so much; default 64M"},
    {"pool_segments", KIND_NUMBER, AT(pool_segments), 0, 1, 64, "N",
     "log files kept for reuse: half of them made ahead, the others from truncation; default 4"},
    {"checkpoint_bytes", KIND_SIZE, AT(checkpoint_bytes), 0, 64 * KIB, 1024 * GIB, "SIZE",
     "flush the store after so much log; default 64M"},
    {"checkpoint_ms", KIND_NUMBER, AT(checkpoint_ms), 0, 100, 24 * HOUR_MS, "MS",
     "and after so long; default 60000"},
    {"retain_bytes", KIND_SIZE, AT(retain_bytes), 0, 0, UINT64_MAX, "SIZE",
     "drop by itself what lies further back; default 0: never"},
    {"retain_ms", KIND_NUMBER, AT(retain_ms), 0, 0, UINT64_MAX / 1000, "MS",
     "drop by itself what is older; default 0: never"},
    {"heartbeat_ms", KIND_NUMBER, AT(heartbeat_ms), 0, 10, 10000, "MS", "default 100"},
    {"election_ms", KIND_NUMBER, AT(election_ms), 0, 50, 60000, "MS",
     "a follower stands after one to two times this; default 500"},
    {"stall_ms", KIND_NUMBER, AT(stall_ms), 0, 100, 60000, "MS",
     "a leader whose disk takes longer steps down; default 2000"},
    {"peer_window_bytes", KIND_SIZE, AT(peer_window_bytes), 0, 64 * KIB, 256 * MIB, "SIZE",
     "on the way to one follower; default 8M"},
    {"tail_bytes", KIND_SIZE, AT(tail_bytes), 0, 64 * KIB, 256 * MIB, "SIZE",
     "recent log kept in memory for followers; default 8M"},
    {"pending_bytes", KIND_SIZE, AT(pending_bytes), 0, 4 * MIB, 256 * MIB, "SIZE",
     "appended and not yet committed, at most; default 16M"},
    {"reserve_bytes", KIND_SIZE, AT(reserve_bytes), 0, 0, 1024 * GIB, "SIZE",
     "free disk space below which appends are refused; default: the store's write\n"
     "                              buffers and two segments"},
    {"store_write_buffer_bytes", KIND_SIZE, AT(store_write_buffer_bytes), 0, MIB, GIB, "SIZE",
     "default 16M; two of them at most"},
    {"store_block_cache_bytes", KIND_SIZE, AT(store_block_cache_bytes), 0, MIB, 64 * GIB, "SIZE",
     "default 16M"},
    {"max_connections", KIND_NUMBER, AT(max_connections), 0, 8, 65536, "N", "default 256"},
    {"scrub", KIND_SWITCH, AT(scrub), 0, 0, 0, "on|off",
     "read old log files in the background and check them; default on"},
    {"scrub_start_ms", KIND_NUMBER, AT(scrub_start_ms), 0, 0, 24 * HOUR_MS, "MS",
     "the first round of that, after the start; then every six hours; default 60000"},
    {"log_level", KIND_LEVEL, AT(log_level), 0, 0, 0, "debug|info|warn|error", "default info"},
};
enum { N_SPECS = sizeof specs / sizeof specs[0], OPT_CONFIG = 1000, OPT_HELP, OPT_VERSION };

static void set_defaults(struct options *o) {
    *o = (struct options){
        .scrub = true,
        .log_level = LOG_INFO,
        .segment_bytes = 64 * MIB,
        .pool_segments = 4,
        .checkpoint_bytes = 64 * MIB,
        .checkpoint_ms = 60000,
        .heartbeat_ms = 100,
        .election_ms = 500,
        .stall_ms = 2000,
        .peer_window_bytes = 8 * MIB,
        .tail_bytes = 8 * MIB,
        .pending_bytes = 16 * MIB,
        .store_write_buffer_bytes = 16 * MIB,
        .store_block_cache_bytes = 16 * MIB,
        .max_connections = 256,
        .scrub_start_ms = 60000,
    };
}

static bool parse_number(const char *text, uint64_t *value, const char **rest) {
    if (*text < '0' || *text > '9') return false;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno != 0) return false;
    *value = v;
    *rest = end;
    return true;
}

replog_status options_parse_size(const char *text, uint64_t *value, replog_error *err) {
    uint64_t v;
    const char *rest;
    if (!parse_number(text, &v, &rest)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "\"%s\" is not a size", text);
    }
    unsigned shift = 0;
    if (*rest == 'K' || *rest == 'k') shift = 10;
    if (*rest == 'M' || *rest == 'm') shift = 20;
    if (*rest == 'G' || *rest == 'g') shift = 30;
    if (shift) rest++;
    if (*rest != '\0' || v > (UINT64_MAX >> shift)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "\"%s\" is not a size (a number, and perhaps K, M or G)", text);
    }
    *value = v << shift;
    return REPLOG_OK;
}

bool options_split_address(const char *address, char *host, uint16_t *port) {
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address) return false;
    size_t host_bytes = (size_t)(colon - address);
    const char *start = address;
    if (*start == '[') {
        if (address[host_bytes - 1] != ']' || host_bytes < 3) return false;
        start++;
        host_bytes -= 2;
    } else if (memchr(address, ':', host_bytes)) {
        return false; /* an IPv6 address stands in brackets */
    }
    uint64_t number;
    const char *rest;
    if (host_bytes >= OPTIONS_ADDRESS_BYTES || !parse_number(colon + 1, &number, &rest) || *rest ||
        number == 0 || number > UINT16_MAX) {
        return false;
    }
    memcpy(host, start, host_bytes);
    host[host_bytes] = '\0';
    *port = (uint16_t)number;
    return true;
}

bool options_is_loopback(const char *address) {
    char host[OPTIONS_ADDRESS_BYTES];
    uint16_t port;
    if (!options_split_address(address, host, &port)) return false;
    if (strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0) return true;
    return strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host);
}

static replog_status add_member(struct config *cluster, const char *item, size_t item_bytes,
                                replog_error *err) {
    char text[OPTIONS_ADDRESS_BYTES + 24];
    if (item_bytes >= sizeof text) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a member in --cluster is too long");
    }
    memcpy(text, item, item_bytes);
    text[item_bytes] = '\0';
    uint64_t id;
    const char *rest;
    char host[OPTIONS_ADDRESS_BYTES];
    uint16_t port;
    if (!parse_number(text, &id, &rest) || id == 0 || *rest != '=' ||
        strlen(rest + 1) > CONFIG_MAX_ADDRESS || !options_split_address(rest + 1, host, &port)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "\"%s\" in --cluster is not of the form ID=HOST:PORT", text);
    }
    if (cluster->n_members == CONFIG_MAX_MEMBERS) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "--cluster has more than %d members",
                         CONFIG_MAX_MEMBERS);
    }
    uint32_t at = cluster->n_members;
    while (at > 0 && cluster->members[at - 1].id >= id) at--;
    for (uint32_t i = 0; i < cluster->n_members; i++) {
        if (cluster->members[i].id == id || !strcmp(cluster->members[i].address, rest + 1)) {
            return error_set(err, REPLOG_INVALID_ARGUMENT,
                             "--cluster names a member or an address twice: \"%s\"", text);
        }
    }
    memmove(&cluster->members[at + 1], &cluster->members[at],
            (cluster->n_members - at) * sizeof cluster->members[0]);
    cluster->members[at] = (struct config_member){.id = id, .role = MEMBER_VOTER};
    memcpy(cluster->members[at].address, rest + 1, strlen(rest + 1) + 1);
    cluster->n_members++;
    return REPLOG_OK;
}

replog_status options_parse_cluster(const char *text, struct config *cluster, replog_error *err) {
    struct config result = *cluster;
    const char *at = text;
    for (;;) {
        size_t item_bytes = strcspn(at, ",");
        replog_status st = add_member(&result, at, item_bytes, err);
        if (st != REPLOG_OK) return st;
        at += item_bytes;
        if (*at == '\0') break;
        at++;
        at += strspn(at, " \t");
        if (*at == '\0') break; /* a trailing comma, as a list over several lines has */
    }
    *cluster = result;
    return REPLOG_OK;
}

static bool parse_word(const char *text, const char *const *words, int *index) {
    for (int i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *index = i;
            return true;
        }
    }
    return false;
}

static replog_status set_integer(const struct spec *spec, struct options *o, const char *value,
                                 replog_error *err) {
    uint64_t v = 0;
    if (spec->kind == KIND_SIZE) {
        replog_error why;
        if (options_parse_size(value, &v, &why) != REPLOG_OK) {
            return error_set(err, REPLOG_INVALID_ARGUMENT, "%s: %s", spec->name, why.text);
        }
    } else {
        const char *rest;
        if (!parse_number(value, &v, &rest) || *rest) {
            return error_set(err, REPLOG_INVALID_ARGUMENT, "%s: \"%s\" is not a number", spec->name,
                             value);
        }
    }
    if (v < spec->low || v > spec->high) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "%s: %s lies outside %" PRIu64 " to %" PRIu64, spec->name, value,
                         spec->low, spec->high);
    }
    memcpy((char *)o + spec->offset, &v, sizeof v);
    return REPLOG_OK;
}

static replog_status set_word(const struct spec *spec, struct options *o, const char *value,
                              replog_error *err) {
    static const char *const syncs[] = {"sync", "batch", "none", NULL};
    static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
    static const char *const switches[] = {"off", "on", "false", "true", "no",
                                           "yes", "0",  "1",     NULL};
    int index;
    if (spec->kind == KIND_SYNC && parse_word(value, syncs, &index)) {
        o->sync = (replog_sync_mode)index;
        return REPLOG_OK;
    }
    if (spec->kind == KIND_LEVEL && parse_word(value, levels, &index)) {
        o->log_level = (enum log_level)index;
        return REPLOG_OK;
    }
    bool is_switch = spec->kind == KIND_FLAG || spec->kind == KIND_SWITCH;
    if (is_switch && parse_word(value, switches, &index)) {
        bool on = (index & 1) != 0;
        memcpy((char *)o + spec->offset, &on, sizeof on);
        return REPLOG_OK;
    }
    return error_set(err, REPLOG_INVALID_ARGUMENT, "%s: \"%s\" is none of %s", spec->name, value,
                     spec->argument ? spec->argument : "on|off");
}

/* One option's value, from the file or the command line. */
static replog_status set_option(const struct spec *spec, struct options *o, const char *value,
                                replog_error *err) {
    if (spec->kind == KIND_NUMBER || spec->kind == KIND_SIZE) {
        return set_integer(spec, o, value, err);
    }
    if (spec->kind == KIND_CLUSTER) return options_parse_cluster(value, &o->cluster, err);
    if (spec->kind != KIND_TEXT) return set_word(spec, o, value, err);
    size_t n = strlen(value);
    if (n == 0 || n >= spec->size_bytes) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "%s: must have 1 to %zu characters",
                         spec->name, spec->size_bytes - 1);
    }
    memcpy((char *)o + spec->offset, value, n + 1);
    return REPLOG_OK;
}

static const struct spec *find_spec(const char *name) {
    for (size_t i = 0; i < N_SPECS; i++) {
        const char *a = specs[i].name, *b = name;
        while (*a && (*a == *b || (*a == '_' && *b == '-'))) a++, b++;
        if (*a == '\0' && *b == '\0') return &specs[i];
    }
    return NULL;
}

/* ---- The file */

struct file_reader {
    FILE *file;
    const char *path;
    struct options *options;
    replog_error *err;
    replog_status status;
    int line;
    bool seen[N_SPECS];
    int last; /* index of the key before: continuation lines repeat it */
};

/* fgets for inih, which would take a line over its buffer for two. */
static char *read_line(char *text, int size, void *user) {
    struct file_reader *r = user;
    if (r->status != REPLOG_OK || !fgets(text, size, r->file)) return NULL;
    r->line++;
    size_t n = strlen(text);
    if (n + 1 >= (size_t)size && text[n - 1] != '\n') {
        r->status = error_set(r->err, REPLOG_INVALID_ARGUMENT,
                              "%s:%d: the line is longer than %d characters; a cluster may be "
                              "given over several indented lines",
                              r->path, r->line, size - 2);
        return NULL;
    }
    return text;
}

static int take_line(void *user, const char *section, const char *name, const char *value) {
    struct file_reader *r = user;
    if (r->status != REPLOG_OK) return 1;
    if (strcmp(section, "replogd") != 0) {
        r->status = error_set(r->err, REPLOG_INVALID_ARGUMENT,
                              "%s:%d: \"%s\" stands in section [%s]; only [replogd] is known",
                              r->path, r->line, name, section);
        return 1;
    }
    const struct spec *spec = find_spec(name);
    if (!spec) {
        r->status = error_set(r->err, REPLOG_INVALID_ARGUMENT, "%s:%d: unknown key \"%s\"", r->path,
                              r->line, name);
        return 1;
    }
    int index = (int)(spec - specs);
    bool continues = spec->kind == KIND_CLUSTER && r->last == index;
    if (r->seen[index] && !continues) {
        r->status = error_set(r->err, REPLOG_INVALID_ARGUMENT, "%s:%d: \"%s\" is given twice",
                              r->path, r->line, spec->name);
        return 1;
    }
    r->seen[index] = true;
    r->last = index;
    replog_error why;
    if (set_option(spec, r->options, value, &why) != REPLOG_OK) {
        r->status =
            error_set(r->err, REPLOG_INVALID_ARGUMENT, "%s:%d: %s", r->path, r->line, why.text);
    }
    return 1;
}

replog_status options_read_file(const char *path, struct options *options, replog_error *err) {
    struct file_reader r = {.path = path, .options = options, .err = err, .last = -1};
    r.file = fopen(path, "re");
    if (!r.file) return error_errno(err, errno, "cannot read the configuration file %s", path);
    int outcome = ini_parse_stream(read_line, &r, take_line, &r);
    if (r.status == REPLOG_OK && ferror(r.file)) {
        r.status = error_errno(err, errno, "cannot read the configuration file %s", path);
    } else if (r.status == REPLOG_OK && outcome != 0) {
        r.status = error_set(err, REPLOG_INVALID_ARGUMENT,
                             "%s:%d: neither a [section] nor name = value", path, outcome);
    }
    (void)fclose(r.file);
    return r.status;
}

/* ---- The command line */

void options_usage(FILE *out) {
    (void)fprintf(out, "Usage: replogd --id N --cluster 1=HOST:PORT,2=HOST:PORT,... --dir DIR\n"
                       "One member of a replog cluster.\n\n");
    for (size_t i = 0; i < N_SPECS; i++) {
        char flag[80];
        size_t n = 0;
        for (const char *c = specs[i].name; *c; c++) flag[n++] = *c == '_' ? '-' : *c;
        flag[n] = '\0';
        (void)fprintf(out, "  --%s%s%s\n                              %s\n", flag,
                      specs[i].argument ? " " : "", specs[i].argument ? specs[i].argument : "",
                      specs[i].help);
    }
    (void)fprintf(out, "  --config FILE\n"
                       "                              section [replogd]: any of these names with "
                       "'_', as name = value;\n"
                       "                              flags win over the file\n"
                       "  --help, --version\n\n"
                       "Sizes take K, M or G. Exit status: 0 stopped as asked, 1 failed, 2 wrong "
                       "usage.\n");
}

static replog_status check_address(const char *name, const char *address, bool insecure,
                                   replog_error *err) {
    char host[OPTIONS_ADDRESS_BYTES];
    uint16_t port;
    if (!options_split_address(address, host, &port)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "%s: \"%s\" is not of the form HOST:PORT",
                         name, address);
    }
    if (!insecure && !options_is_loopback(address)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "%s %s can be reached from other machines, and nothing is encrypted or "
                         "authenticated yet: listen on 127.0.0.1, or say --insecure on a network "
                         "that you trust",
                         name, address);
    }
    return REPLOG_OK;
}

static replog_status check_together(struct options *o, replog_error *err) {
    if (o->id == 0) return error_set(err, REPLOG_INVALID_ARGUMENT, "--id is missing");
    if (o->cluster.n_members == 0) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "--cluster is missing");
    }
    if (o->dir[0] == '\0') return error_set(err, REPLOG_INVALID_ARGUMENT, "--dir is missing");
    const struct config_member *self = NULL;
    for (uint32_t i = 0; i < o->cluster.n_members; i++) {
        if (o->cluster.members[i].id == o->id) self = &o->cluster.members[i];
    }
    if (!self) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "--cluster does not name member %" PRIu64 ", which --id says this is",
                         o->id);
    }
    if (o->listen[0] == '\0') memcpy(o->listen, self->address, sizeof o->listen);
    replog_status st = check_address("--listen", o->listen, o->insecure, err);
    if (st == REPLOG_OK && o->http[0]) st = check_address("--http", o->http, o->insecure, err);
    if (st != REPLOG_OK) return st;
    if (o->election_ms < 2 * o->heartbeat_ms) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "election_ms (%" PRIu64 ") must be at least twice heartbeat_ms (%" PRIu64
                         ")",
                         o->election_ms, o->heartbeat_ms);
    }
    if (o->reserve_bytes == 0) {
        o->reserve_bytes = 2 * o->store_write_buffer_bytes + 2 * o->segment_bytes;
    }
    return REPLOG_OK;
}

/* The getopt table, made from the specs. `names` keeps the spellings with '-'. */
static void make_table(struct option *table, char (*names)[40]) {
    for (size_t i = 0; i < N_SPECS; i++) {
        size_t n = 0;
        for (const char *c = specs[i].name; *c; c++) names[i][n++] = *c == '_' ? '-' : *c;
        names[i][n] = '\0';
        table[i] = (struct option){
            names[i], specs[i].kind == KIND_FLAG ? no_argument : required_argument, NULL, (int)i};
    }
    table[N_SPECS] = (struct option){"config", required_argument, NULL, OPT_CONFIG};
    table[N_SPECS + 1] = (struct option){"help", no_argument, NULL, OPT_HELP};
    table[N_SPECS + 2] = (struct option){"version", no_argument, NULL, OPT_VERSION};
    table[N_SPECS + 3] = (struct option){NULL, 0, NULL, 0};
}

/* Takes one flag: the configuration file in the first pass, everything else in the second. */
static replog_status take_flag(int flag, const char *value, bool first_pass, bool *cluster_seen,
                               struct options *o, replog_error *err) {
    if (flag == OPT_CONFIG) return first_pass ? options_read_file(value, o, err) : REPLOG_OK;
    if (first_pass) return REPLOG_OK;
    const struct spec *spec = &specs[flag];
    if (spec->kind == KIND_FLAG) return set_word(spec, o, "on", err);
    if (spec->kind == KIND_CLUSTER) {
        if (*cluster_seen) {
            return error_set(err, REPLOG_INVALID_ARGUMENT, "--cluster is given twice");
        }
        *cluster_seen = true;
        o->cluster.n_members = 0; /* what the file said gives way */
    }
    replog_error why;
    replog_status st = set_option(spec, o, value, &why);
    return st == REPLOG_OK ? st : error_set(err, st, "in the flags: %s", why.text);
}

enum options_outcome options_parse(int argc, char **argv, struct options *options,
                                   replog_error *err) {
    struct option table[N_SPECS + 4];
    char names[N_SPECS][40];
    make_table(table, names);
    set_defaults(options);
    bool cluster_seen = false;
    for (int pass = 0; pass < 2; pass++) {
        optind = 0; /* glibc: begin anew */
        opterr = 0;
        int flag;
        /* '+': what is no flag ends the parsing, and is then refused */
        while ((flag = getopt_long(argc, argv, "+:", table, NULL)) != -1) {
            if (flag == OPT_HELP) {
                options_usage(stdout);
                return OPTIONS_ASKED;
            }
            if (flag == OPT_VERSION) {
                (void)printf("replogd 0.1.0\n");
                return OPTIONS_ASKED;
            }
            if (flag == '?' || flag == ':') {
                (void)error_set(err, REPLOG_INVALID_ARGUMENT,
                                flag == ':' ? "%s needs a value" : "unknown flag %s",
                                argv[optind - 1]);
                return OPTIONS_REFUSED;
            }
            if (take_flag(flag, optarg, pass == 0, &cluster_seen, options, err) != REPLOG_OK) {
                return OPTIONS_REFUSED;
            }
        }
        if (optind < argc) {
            (void)error_set(err, REPLOG_INVALID_ARGUMENT, "\"%s\" is not a flag", argv[optind]);
            return OPTIONS_REFUSED;
        }
    }
    return check_together(options, err) == REPLOG_OK ? OPTIONS_RUN : OPTIONS_REFUSED;
}
