/* public.h: the log of replog/wal.h on a disk of the caller's choice, for tests. Hides: nothing
 * beyond replog/wal.h. */
#ifndef WAL_PUBLIC_H
#define WAL_PUBLIC_H

#include "replog/wal.h"
#include "wal/disk.h"

/* As replog_wal_open; `disk` outlives the log. */
replog_status replog_wal_open_on(const struct disk *disk, const char *dir,
                                 const replog_wal_options *options, replog_wal **wal,
                                 replog_error *err);

#endif
