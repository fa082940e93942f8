/* module - what must be initialised, and in which order.                     [module] body: plan
 *
 * Needs are static data, so all of them can be looked at before the first init runs. A plan walks
 * them depth first and lists each module after its needs; whatever is wrong with names, or goes
 * round in a cycle, is found here, when nothing has been done and nobody waits. So two threads that
 * come to one cycle from two ends cannot wait for each other: both refuse, and with the same words.
 *
 * The walk keeps its stack in the records (needed_by and needs_left), so a chain may be as long as
 * memory is. Modules that are registered already are not walked: who registered them walked their
 * needs, and found no way back to what is new here.
 *
 * Names are found in a tree of four-way nodes, led by two bits of the name's hash at each, which is
 * part of the records: nothing grows, so nothing but a record can want memory.
 */
#include "module_internal.h"

#if ASTHRA_HAS_MODULE

#include <string.h>

/* ---- names ---- */

static uint64_t asthra__module_hash(const char *name) { /* FNV-1a (Fowler, Noll, Vo) */
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *name != '\0'; name++) {
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    }
    return hash;
}

ASTHRA__FN Asthra__ModuleRecord **asthra__module_place(Asthra__ModuleRecord **tree,
                                                       const char *name, uint64_t hash) {
    for (uint64_t way = hash; *tree != NULL; way <<= 2) {
        const Asthra__ModuleRecord *r = *tree;
        bool is_it = r->hash == hash && r->state != ASTHRA__MODULE_GONE;
        if (is_it && strcmp(r->module->name, name) == 0) break;
        tree = &(*tree)->child[way >> 62];
    }
    return tree;
}

ASTHRA__FN Asthra__ModuleRecord *asthra__module_flatten(Asthra__ModuleRecord *tree) {
    Asthra__ModuleRecord *list = NULL, *r;
    if (tree != NULL) tree->next = NULL;
    while ((r = tree) != NULL) {
        tree = r->next;
        for (int i = 0; i < 4; i++) {
            if (r->child[i] == NULL) continue;
            r->child[i]->next = tree;
            tree = r->child[i];
        }
        if (r->state == ASTHRA__MODULE_RUNNING) continue;
        r->next = list;
        list = r;
    }
    return list;
}

ASTHRA__FN void asthra__module_free_list(Asthra__ModuleRecord *list) {
    for (Asthra__ModuleRecord *next; list != NULL; list = next) {
        next = list->next;
        asthra__free(list);
    }
}

/* ---- what can be wrong ---- */

static const char *asthra__module_version(const AsthraModule *m) {
    return m->version != NULL ? m->version : "without a number";
}

ASTHRA__FN AsthraResult asthra__module_conflict(const AsthraModule *old,
                                                const AsthraModule *young) {
    return asthra_result_errorf(ASTHRA_INVALID,
                                "two modules have the name '%s': version %s, which came first, and "
                                "version %s",
                                young->name, asthra__module_version(old),
                                asthra__module_version(young));
}

static AsthraResult asthra__module_nameless(const Asthra__ModuleRecord *needed_by) {
    if (needed_by == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_module_register: a module has no name");
    return asthra_result_errorf(ASTHRA_INVALID, "module '%s' needs one that has no name",
                                needed_by->module->name);
}

enum { ASTHRA__MODULE_RING_TEXT = 150 };

ASTHRA__FN void asthra__module_name_ring(const Asthra__ModuleRecord *r, Asthra__Text *t) {
    const Asthra__ModuleRecord *first = r, *at = r->path;
    size_t left = 0;
    for (; at != r; at = at->path, left++) {
        if (strcmp(at->module->name, first->module->name) < 0) first = at;
    }
    asthra__text_format(t, "modules need each other in a cycle: %s", first->module->name);
    for (at = first->path; at != first; at = at->path, left--) {
        if (t->length + strlen(at->module->name) > ASTHRA__MODULE_RING_TEXT) break;
        asthra__text_format(t, " needs %s", at->module->name);
    }
    if (left > 0) asthra__text_format(t, " needs %zu more, the last of which", left);
    asthra__text_format(t, " needs %s", first->module->name);
}

/* ---- the walk ---- */

typedef struct Asthra__ModulePlan {
    Asthra__ModuleRecord *tree;          /* all, by name */
    Asthra__ModuleRecord *deepest;       /* OPEN, as those are to which its needed_by leads */
    Asthra__ModuleRecord *first, **last; /* PLANNED */
} Asthra__ModulePlan;

/* A need of the deepest one leads to r, which is OPEN as well. */
static AsthraResult asthra__module_refuse_ring(const Asthra__ModulePlan *p,
                                               Asthra__ModuleRecord *r) {
    char text[256];
    Asthra__Text t = asthra__text_on(text, sizeof text);
    for (Asthra__ModuleRecord *at = p->deepest; at != r; at = at->needed_by)
        at->needed_by->path = at;
    p->deepest->path = r;
    asthra__module_name_ring(r, &t);
    return asthra_result_errorf(ASTHRA_INVALID, "%s", text);
}

/* The walk comes to m from the deepest one, or begins with it. */
static AsthraResult asthra__module_reach(Asthra__ModulePlan *p, const AsthraModule *m) {
    if (m->name == NULL || m->name[0] == '\0') return asthra__module_nameless(p->deepest);
    uint64_t hash = asthra__module_hash(m->name);
    Asthra__ModuleRecord **at = asthra__module_place(&p->tree, m->name, hash), *r = *at;
    if (r != NULL && r->module != m) return asthra__module_conflict(r->module, m);
    if (r != NULL && r->state == ASTHRA__MODULE_OPEN) return asthra__module_refuse_ring(p, r);
    if (r != NULL) return asthra__result_of(ASTHRA_OK);
    bool is_done;
    const AsthraModule *known = asthra__module_known(m->name, hash, &is_done);
    if (known != NULL && known != m) return asthra__module_conflict(known, m);
    if (is_done) return asthra__result_of(ASTHRA_OK);
    r = asthra__alloc_zeroed(1, sizeof *r);
    if (r == NULL) {
        return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "no memory for the record of module '%s'",
                                    m->name);
    }
    r->module = m;
    r->hash = hash;
    r->state = ASTHRA__MODULE_OPEN;
    r->needed_by = p->deepest;
    r->needs_left = known == NULL ? m->needs : NULL;
    *at = p->deepest = r;
    return asthra__result_of(ASTHRA_OK);
}

/* All needs of the deepest one are listed, so it comes next. */
static void asthra__module_close(Asthra__ModulePlan *p) {
    Asthra__ModuleRecord *r = p->deepest;
    p->deepest = r->needed_by;
    r->state = ASTHRA__MODULE_PLANNED;
    *p->last = r;
    p->last = &r->next;
}

ASTHRA__FN AsthraResult asthra__module_plan(const AsthraModule *m, Asthra__ModuleRecord **list) {
    Asthra__ModulePlan p = {NULL, NULL, NULL, &p.first};
    AsthraResult result = asthra__module_reach(&p, m);
    while (!result.status && p.deepest != NULL) {
        const AsthraModule *const **left = &p.deepest->needs_left;
        if (*left == NULL || **left == NULL) {
            asthra__module_close(&p);
        } else {
            const AsthraModule *need = *(*left)++;
            result = asthra__module_reach(&p, need);
        }
    }
    if (result.status) {
        asthra__module_free_list(asthra__module_flatten(p.tree));
        p.first = NULL;
    }
    *list = p.first;
    return result;
}

#endif
