/* module - records, plans, and what the runtime asks at its end.             [module] internal */
#ifndef ASTHRA__MODULE_INTERNAL_H
#define ASTHRA__MODULE_INTERNAL_H

#include "module.h"

#include "../core/alloc_internal.h"
#include "../core/text_internal.h"

#if ASTHRA_HAS_MODULE

typedef enum Asthra__ModuleState {
    ASTHRA__MODULE_OPEN,    /* in a plan: its needs are being looked at */
    ASTHRA__MODULE_PLANNED, /* in a plan */
    ASTHRA__MODULE_RUNNING, /* registered: its init runs */
    ASTHRA__MODULE_DONE,    /* registered: initialised */
    ASTHRA__MODULE_GONE     /* its init has failed; only its place in the tree is left */
} Asthra__ModuleState;

/* Who runs an init, or registers. No two are alike, also of those that have ended. */
typedef struct Asthra__ModuleParty {
    uint64_t task; /* 0: outside tasks */
    const Asthra__Thread *thread;
} Asthra__ModuleParty;

/* One module, first in a plan, then, if nobody else was first, in the registry. */
typedef struct Asthra__ModuleRecord Asthra__ModuleRecord;
struct Asthra__ModuleRecord {
    const AsthraModule *module;
    uint64_t hash; /* of its name */
    Asthra__ModuleState state;
    uint32_t epoch;                  /* of the registry that it was put into */
    Asthra__ModuleRecord *child[4];  /* in the tree that it stands in */
    Asthra__ModuleRecord *next;      /* planned: the one to be initialised next; RUNNING: older */
    Asthra__ModuleRecord *needed_by; /* whose need led to it; NULL: it was asked for */
    Asthra__ModuleRecord *path;      /* the next one of a ring that is being named */
    Asthra__ModuleRecord *known;     /* the registered one that stands for it, perhaps itself */
    Asthra__ModuleRecord *wants;     /* RUNNING: planned, what its init registers now; or NULL */
    Asthra__ModuleRecord *older, *newer;   /* DONE */
    const AsthraModule *const *needs_left; /* OPEN: not looked at yet; NULL: none */
    struct Asthra__ModuleWaiter *waiters;  /* RUNNING: for its end */
    Asthra__ModuleParty party;             /* RUNNING: in its init; zero: it has not begun */
};

/* ---- module_plan.c ---- */

/* The link to the record of that name, or to where it would stand. */
ASTHRA__FN Asthra__ModuleRecord **asthra__module_place(Asthra__ModuleRecord **tree,
                                                       const char *name, uint64_t hash);
/* All but the RUNNING ones as a list; the tree is no more. */
ASTHRA__FN Asthra__ModuleRecord *asthra__module_flatten(Asthra__ModuleRecord *tree);
ASTHRA__FN void asthra__module_free_list(Asthra__ModuleRecord *list);

/* What is not initialised yet of m and its needs, needs first, as a list; OK, or nothing is left
 * behind. */
ASTHRA__FN AsthraResult asthra__module_plan(const AsthraModule *m, Asthra__ModuleRecord **list);

ASTHRA__FN AsthraResult asthra__module_conflict(const AsthraModule *old, const AsthraModule *young);

/* "modules need each other in a cycle: a needs b needs a" of the ring that r->path leads round. It
 * begins with the smallest name, so that a cycle has one text, whoever comes upon it. */
ASTHRA__FN void asthra__module_name_ring(const Asthra__ModuleRecord *r, Asthra__Text *t);

/* ---- module.c ---- */

/* Registered under that name, initialised (*is_done) or about to be; NULL: none. */
ASTHRA__FN const AsthraModule *asthra__module_known(const char *name, uint64_t hash, bool *is_done);

/* Calls visit for the types of all modules that are initialised, those of needs first, until it
 * returns false. Under the lock: visit must not register, wait or allocate. */
ASTHRA__FN void asthra__module_each_type(bool (*visit)(const struct AsthraTypeInfo *type,
                                                       const AsthraModule *m, void *user),
                                         void *user);

/* Between the two below: whoever asks on the thread that shuts down is a fini. */
ASTHRA__FN bool asthra__module_is_ending(void);
/* Refuses to register from now on, waits timeout_ns for inits that still run, then calls finis. */
ASTHRA__FN void asthra__module_end_all(int64_t timeout_ns);
ASTHRA__FN void asthra__module_reopen(void); /* the shutdown is over */

#elif ASTHRA_HAS_CORE

static inline bool asthra__module_is_ending(void) {
    return false;
}
static inline void asthra__module_end_all(int64_t timeout_ns) {
    (void)timeout_ns;
}
static inline void asthra__module_reopen(void) {}

#endif

#endif
