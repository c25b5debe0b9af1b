#include "base/mutant.h"

#ifdef REPLOG_MUTANT
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int replog_mutant = REPLOG_MUTANT;

#define MUTANT_NAME(name, sentence)     #name,
#define MUTANT_SENTENCE(name, sentence) sentence,
static const char *const names[N_MUTANTS] = {"NONE", MUTANT_TABLE(MUTANT_NAME)};
static const char *const sentences[N_MUTANTS] = {"no deliberate bug",
                                                 MUTANT_TABLE(MUTANT_SENTENCE)};

const char *mutant_name(int mutant) {
    return mutant >= 0 && mutant < N_MUTANTS ? names[mutant] : NULL;
}

const char *mutant_sentence(int mutant) {
    return mutant >= 0 && mutant < N_MUTANTS ? sentences[mutant] : NULL;
}

int mutant_find(const char *name_or_number) {
    for (int i = 0; i < N_MUTANTS; i++)
        if (strcmp(names[i], name_or_number) == 0) return i;
    char *end;
    long number = strtol(name_or_number, &end, 10);
    if (end == name_or_number || *end || number < 0 || number >= N_MUTANTS) return -1;
    return (int)number;
}

/* For programs that have no option for it. */
__attribute__((constructor)) static void mutant_from_environment(void) {
    const char *name = getenv("REPLOG_MUTANT");
    if (!name || !*name) return;
    replog_mutant = mutant_find(name);
    if (replog_mutant >= 0) return;
    fprintf(stderr, "REPLOG_MUTANT=%s: no such mutant\n", name);
    exit(2);
}
#endif
