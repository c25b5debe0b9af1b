/* mutant.h: deliberate bugs, for tests that must be able to fail. A build with -DREPLOG_MUTANT=n
 * (CMake) holds a switch where each rule below is enforced; bug n is active from the start (0:
 * none), another one by the environment's REPLOG_MUTANT=NAME or by setting replog_mutant. In every
 * other build MUTANT() is a constant 0 and nothing of this is left.
 *
 * The table says which rule is broken and what comes of it. tests/sim/mutants.py shows that the
 * simulator finds each. Hides: nothing. */
#ifndef BASE_MUTANT_H
#define BASE_MUTANT_H

/* clang-format off */
#define MUTANT_TABLE(X)                                                                            \
    /* raft/: votes */                                                                             \
    X(VOTE_TWICE,                                                                                  \
      "a second candidate of the same term gets a vote too: two leaders in one term, two logs")    \
    X(ANSWER_BEFORE_VOTE_SAVED,                                                                    \
      "messages of a term leave before term and vote are durable: after a crash the member votes " \
      "in that term again, or counts for a leader whose term it does not know any more")           \
    X(VOTE_FOR_SHORTER_LOG,                                                                        \
      "a candidate whose log is shorter than the voter's gets the vote: it leads without what is " \
      "committed and has it cut off everywhere")                                                   \
    X(HALF_IS_MAJORITY,                                                                            \
      "half of an even number of members counts as a majority: both halves of a partition go on")  \
    /* raft/: commit */                                                                            \
    X(COMMIT_OLD_TERM,                                                                             \
      "a block of an older term is committed by counting members (figure 8): a leader whose log "  \
      "ends in a higher term can still cut it off")                                                \
    X(COUNT_UNDURABLE_FOLLOWER,                                                                    \
      "a follower reports what it received, not what its disk has: committed blocks vanish when "  \
      "it loses power")                                                                            \
    X(COUNT_UNDURABLE_LEADER,                                                                      \
      "the leader counts its own blocks before its disk has them: committed blocks vanish when "   \
      "it loses power")                                                                            \
    X(COUNT_LATE_PERSISTED,                                                                        \
      "\"persisted\" of a tail that was cut since counts for the blocks that took its place: they "\
      "are acknowledged before they are on disk")                                                  \
    X(COMMIT_BEYOND_MATCH,                                                                         \
      "a follower takes the leader's commit for its own tail beyond what is known to match: it "   \
      "applies blocks that the leader has not got")                                                \
    X(COMMITTED_AT_RESTART,                                                                        \
      "a restarted member takes its whole log for committed: it applies a tail that is cut later") \
    /* raft/: matching logs */                                                                     \
    X(MATCH_KEPT_OVER_LEADERS,                                                                     \
      "what matched the last leader's log counts as matching the next one's: a conflicting tail "  \
      "is counted for the commit and never replaced")                                              \
    X(KEEP_OTHER_TERM,                                                                             \
      "a block at the same seq but of another term is kept as if it were the leader's: the logs "  \
      "differ below what is committed")                                                            \
    X(PREV_TERM_UNCHECKED,                                                                         \
      "a position matches by its seq alone, whatever the term there: a conflicting tail is "       \
      "counted for the commit")                                                                    \
    X(PROBE_STAYS,                                                                                 \
      "the leader asks again at the position that was rejected: a member with a conflicting or "   \
      "lost tail never catches up")                                                                \
    X(STREAM_NOT_RESTARTED,                                                                        \
      "the leader does not notice that the connection to a follower broke: it is not fed any more")\
    /* raft/: leading */                                                                           \
    X(NO_CHECK_QUORUM,                                                                             \
      "a leader that nobody answers goes on leading: members that it reaches elect nobody else, "  \
      "and its clients wait in place of looking for the others")                                   \
    X(READ_WITHOUT_ROUND,                                                                          \
      "a read index is given without asking a majority: a deposed leader serves old state as new") \
    X(READ_BY_AN_OLD_ROUND,                                                                        \
      "a read index is confirmed by answers to a round that began before the question: a leader "  \
      "that was deposed meanwhile serves old state as new")                                        \
    X(READY_BEFORE_TERM_COMMITTED,                                                                 \
      "a new leader serves reads before a block of its own term is committed: its commit may lie " \
      "behind what the last leader acknowledged")                                                  \
    /* node/: acknowledgement */                                                                   \
    X(LEADER_ACK_BEFORE_SYNC,                                                                      \
      "ack LEADER when the block is sealed, not when it is durable: lost by a power cut")          \
    X(QUORUM_ACK_ON_ONE_DISK,                                                                      \
      "ack QUORUM when the leader's disk has it: lost with that one disk, or cut by the next "     \
      "leader")                                                                                    \
    X(ALL_ACK_ON_QUORUM,                                                                           \
      "ack ALL when a majority has it: the others do not")                                         \
    X(PENDING_SURVIVES_OFFICE,                                                                     \
      "appends that wait are kept when leadership is lost, and answered by whatever is committed " \
      "at their seq when this member leads again: acknowledged, and not in the log")               \
    X(REPEAT_ANSWERED_AT_ONCE,                                                                     \
      "a repeated append gets its answer because it is in the log, committed or not")              \
    /* node/: sessions */                                                                          \
    X(SESSIONS_AS_APPLIED,                                                                         \
      "after a restart the session table is as of the applied seq, without the blocks above it: "  \
      "sessions that were opened there are unknown, and retries let in twice")                     \
    X(FORGET_UNAPPLIED_APPENDS,                                                                    \
      "after a restart the session table does not know the appends above the applied seq: a "      \
      "retry of one of those is let in twice")                                                     \
    X(SESSIONS_LOST_AT_RESTART,                                                                    \
      "a restarted node begins with an empty session table: clients that retry are told that "     \
      "their session is unknown, and cannot learn what became of their appends")                   \
    X(SESSIONS_NOT_STORED,                                                                         \
      "the session table is not written with the applied seq: what was applied before the last "   \
      "flush is forgotten by a restart, and retries are refused or let in twice")                  \
    X(SESSION_OUT_OF_ORDER,                                                                        \
      "a number is admitted though the one before it was refused: appends stand in the wrong "     \
      "order, and twice once the client repeats them")                                             \
    X(SESSIONS_SURVIVE_CUT,                                                                        \
      "a cut does not undo the session table: a retry of an append that was cut off is answered "  \
      "with its old seq, and lost")                                                                \
    X(SESSION_FORGETS_ANSWERS,                                                                     \
      "answers that the client has not acknowledged are dropped: its retry is refused though the " \
      "append is in the log")                                                                      \
    X(EVICTED_STAYS_STORED,                                                                        \
      "the store keeps what it knew of a session that was evicted: after a restart the session "   \
      "is back as it was then, and a retry of what came later is let in twice")                    \
    X(REFUSED_WITHOUT_ROUND,                                                                       \
      "a leader says that it does not know a session without asking whether it still leads: a "    \
      "later one may have opened it")                                                              \
    /* node/: replay and reads */                                                                  \
    X(APPLY_UNDURABLE,                                                                             \
      "blocks are applied before they are durable here: after a power cut the store is ahead of "  \
      "the log, and the node cannot start")                                                        \
    X(APPLY_UNSYNCED,                                                                              \
      "with --sync none blocks are applied before they are synced here: after a power cut the "    \
      "store is ahead of the log, and the node cannot start")                                      \
    X(APPLY_UNCOMMITTED,                                                                           \
      "blocks are applied when durable, committed or not: Get serves what is cut off later")       \
    X(PUBLISH_UNCOMMITTED,                                                                         \
      "readers are shown all that is durable here as committed: they see what is cut off later")   \
    X(GET_BEFORE_APPLIED,                                                                          \
      "a Get is answered when its index is known, not when the store has come so far: it returns " \
      "an older value than one that was acknowledged")                                             \
    X(FAILED_BATCH_SKIPPED,                                                                        \
      "after a full disk replay goes on behind the batch that failed: its records are missing in " \
      "one store")                                                                                 \
    X(APPLIED_SEQ_APART,                                                                           \
      "the applied seq is written to the store before the data: a crash in between loses the data "\
      "in one store only")                                                                         \
    X(READ_BEGINS_LATER,                                                                           \
      "a read from the beginning begins in the middle of the log: who replays it lacks the rest")  \
    X(FOLLOWER_SLEEPS_ON,                                                                          \
      "a read that follows the log is not woken once it has caught up: it gets nothing any more")  \
    /* node/: checkpoint and truncation */                                                         \
    X(TRUNCATE_BY_QUORUM,                                                                          \
      "the safe seq is what more than half of the members have checkpointed, not all: one that "   \
      "is behind needs blocks that no log holds any more")                                         \
    X(TRUNCATE_WITHOUT_ABSENT,                                                                     \
      "the safe seq is the least checkpoint of those members that are online, not of all: one "    \
      "that was away needs blocks that no log holds any more")                                     \
    X(TRUNCATE_AS_ASKED,                                                                           \
      "a node truncates what was asked for as soon as its own store holds it, whatever the safe "  \
      "seq says: a follower that is behind can never be fed")                                      \
    X(NEVER_TRUNCATES,                                                                             \
      "what was asked for, and every store holds, is not truncated: the disk fills")               \
    X(APPLIED_AS_CHECKPOINT,                                                                       \
      "a node reports its applied seq as its checkpoint: the log is truncated below what its "     \
      "store has lost after a power cut")                                                          \
    X(CHECKPOINT_AFTER_FLUSH,                                                                      \
      "the checkpoint is what was applied after the flush, not before it: the log is truncated "   \
      "below what the store loses at a power cut")                                                 \
    X(FLUSH_BEHIND_ALL_SLICES,                                                                     \
      "a flush waits until the store has caught up: under a load that it cannot follow it is "     \
      "never flushed, and the log never truncated")                                                \
    /* node/: founding and feeding */                                                              \
    X(FOUND_BESIDE_SILENT,                                                                         \
      "empty directories found a cluster beside a member that said nothing: it may hold the "      \
      "records of an older cluster, and is refused from then on")                                  \
    X(WELCOME_WIPED,                                                                               \
      "a wiped directory is accepted under its old id: it has forgotten its votes and the blocks " \
      "that it was counted for")                                                                   \
    X(WINDOW_LEAKS,                                                                                \
      "acknowledged blocks are not taken off a follower's window: feeding it stops for good")      \
    /* node/: the worker that writes the log */                                                    \
    X(PERSISTED_BEFORE_SYNC,                                                                       \
      "a write is told to be durable before its fdatasync: every acknowledgement comes too early") \
    X(FULL_DISK_IS_WRITTEN,                                                                        \
      "what did not fit on a full disk counts as written: it is acknowledged, and the log has a "  \
      "hole")                                                                                      \
    /* wal/ */                                                                                     \
    X(VOTE_NOT_SYNCED,                                                                             \
      "the vote file is written without fsync: after a power cut a member votes again in a term "  \
      "in which it has voted")                                                                     \
    X(DAMAGED_VOTE_REPLACED,                                                                       \
      "a vote file damaged in both copies is replaced by a new one: the member has forgotten its " \
      "term and vote, and votes again")                                                            \
    X(RENAME_NOT_SYNCED,                                                                           \
      "the directory is not fsynced after the manifest's rename: founding, cut or truncation are " \
      "undone by a power cut after they were reported as done")                                    \
    X(SEGMENT_NAME_NOT_SYNCED,                                                                     \
      "the directory is not fsynced after a segment got its name: a power cut takes the file with "\
      "acknowledged blocks")                                                                       \
    X(SYNC_FAILURE_IGNORED,                                                                        \
      "a failed fdatasync counts as done: what it did not write is acknowledged")                  \
    X(TRUST_PAGE_CACHE,                                                                            \
      "open does not write again what no mark proves: after a failed fdatasync the page cache "    \
      "serves what the disk never took, and it is acknowledged")                                   \
    X(OWN_TAIL_FORGOTTEN,                                                                          \
      "open drops what no mark proves when this member led: what it alone had acknowledged "       \
      "(LEADER) is lost by a restart")                                                             \
    X(ROT_AS_TORN_TAIL,                                                                            \
      "recovery cuts off what a mark proves to have been durable: acknowledged blocks are gone, "  \
      "and the member votes as if they had never been")                                            \
    X(MARK_AHEAD,                                                                                  \
      "a group's mark names the written tail, not the durable one: a torn write looks like rot, "  \
      "and the log refuses to open after a power cut")                                             \
    X(ROLL_WITHOUT_SYNC,                                                                           \
      "a full segment is left without fdatasync: its last groups are acknowledged and not durable")\
    X(BLOCK_HASH_UNCHECKED,                                                                        \
      "a block's bytes are not compared with its hash: torn and rotten bytes become records, half "\
      "a batch becomes visible")
/* clang-format on */

enum mutant {
    MUTANT_NONE,
#define MUTANT_ENUM(name, sentence) MUTANT_##name,
    MUTANT_TABLE(MUTANT_ENUM)
#undef MUTANT_ENUM
        N_MUTANTS
};

#ifdef REPLOG_MUTANT
extern int replog_mutant;
#define MUTANT(name) (replog_mutant == MUTANT_##name)

/* "NONE" for 0; NULL beyond the table. */
const char *mutant_name(int mutant);
const char *mutant_sentence(int mutant);
int mutant_find(const char *name_or_number); /* -1: no such */
#else
#define MUTANT(name) (MUTANT_##name == MUTANT_NONE)
#endif

#endif
