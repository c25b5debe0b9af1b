/* Names of statuses and operations: what the public headers declare and no module owns. */
#include "replog/limits.h"
#include "replog/status.h"

const char *replog_status_name(replog_status status) {
    switch (status) {
#define STATUS_NAME(name, code, text)                                                              \
    case REPLOG_##name:                                                                            \
        return #name;
        REPLOG_STATUS_TABLE(STATUS_NAME)
#undef STATUS_NAME
    }
    return "UNKNOWN";
}

const char *replog_status_text(replog_status status) {
    switch (status) {
#define STATUS_TEXT(name, code, text)                                                              \
    case REPLOG_##name:                                                                            \
        return text;
        REPLOG_STATUS_TABLE(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "an error without a code";
}

const char *replog_op_name(replog_op op) {
    switch (op) {
    case REPLOG_OP_PUT:
        return "PUT";
    case REPLOG_OP_DELETE:
        return "DELETE";
    case REPLOG_OP_COMMIT:
        return "COMMIT";
    case REPLOG_OP_CHECKPOINT:
        return "CHECKPOINT";
    case REPLOG_OP_TERM:
        return "TERM";
    case REPLOG_OP_CONFIG:
        return "CONFIG";
    case REPLOG_OP_SESSION:
        return "SESSION";
    }
    return "?";
}
