/* ffi_text - signatures as texts.                                         [ffi] body: texts
 *
 * Scalars are constants of the program. The other types of a text are made in one block, which the
 * plan owns: types first, then the lists of their fields. While a list is read it stands on a pile
 * of all lists that are open; the one at the bottom, in the end, is the parameters'.
 */
#include "ffi_internal.h"

#if ASTHRA_HAS_FFI

#include <string.h>

typedef struct Asthra__FFIText {
    const char *text, *at;
    AsthraFFIType *types;                 /* the next one to be made */
    const AsthraFFIType **fields, **pile; /* the next place in a list, and on the pile */
    unsigned depth;
    const char *expected; /* not NULL: that was not found at `at` */
} Asthra__FFIText;

static char asthra__ffi_peek(Asthra__FFIText *t) {
    while (*t->at == ' ') t->at++;
    return *t->at;
}

static bool asthra__ffi_take(Asthra__FFIText *t, char c, const char *name) {
    if (asthra__ffi_peek(t) == c) {
        t->at++;
        return true;
    }
    if (t->expected == NULL) t->expected = name;
    return false;
}

static const AsthraFFIType *asthra__ffi_letter(char c) {
    static const char letters[] = "BcCsSiIlLfFdDgGp";
    static const AsthraFFIType *const types[] = {
        &asthra_ffi_type_bool, &asthra_ffi_type_s8,   &asthra_ffi_type_u8,    &asthra_ffi_type_s16,
        &asthra_ffi_type_u16,  &asthra_ffi_type_s32,  &asthra_ffi_type_u32,   &asthra_ffi_type_s64,
        &asthra_ffi_type_u64,  &asthra_ffi_type_f32,  &asthra_ffi_type_cf32,  &asthra_ffi_type_f64,
        &asthra_ffi_type_cf64, &asthra_ffi_type_ldbl, &asthra_ffi_type_cldbl, &asthra_ffi_type_ptr};
    const char *found = c != 0 ? strchr(letters, c) : NULL;
    return found != NULL ? types[found - letters] : NULL;
}

static const AsthraFFIType *asthra__ffi_read_type(Asthra__FFIText *t);

/* Makes a type of what stands on the pile above `list`, which is taken from it. */
static const AsthraFFIType *asthra__ffi_make(Asthra__FFIText *t, AsthraFFIKind kind,
                                             const AsthraFFIType **list, size_t count) {
    size_t fields = (size_t)(t->pile - list);
    AsthraFFIType *made = t->types++;
    memcpy(t->fields, list, fields * sizeof *list);
    *made = (AsthraFFIType){kind, 0, 0, t->fields, count != 0 ? count : fields};
    t->fields += fields;
    t->pile = list;
    return made;
}

static const AsthraFFIType *asthra__ffi_read_block(Asthra__FFIText *t, AsthraFFIKind kind,
                                                   char end) {
    const AsthraFFIType **list = t->pile;
    while (t->expected == NULL && asthra__ffi_peek(t) != end) {
        const AsthraFFIType *field = asthra__ffi_read_type(t);
        if (field != NULL) *t->pile++ = field;
    }
    if (t->expected != NULL) return NULL;
    t->at++;
    return asthra__ffi_make(t, kind, list, 0);
}

static const AsthraFFIType *asthra__ffi_read_array(Asthra__FFIText *t) {
    const AsthraFFIType **list = t->pile;
    size_t count = 0;
    if (asthra__ffi_peek(t) < '1' || *t->at > '9') t->expected = "a number of elements";
    while (*t->at >= '0' && *t->at <= '9' && t->expected == NULL) {
        count = count * 10 + (size_t)(*t->at++ - '0');
        if (count > (size_t)1 << 28) t->expected = "a smaller number";
    }
    const AsthraFFIType *element = t->expected == NULL ? asthra__ffi_read_type(t) : NULL;
    if (element == NULL || !asthra__ffi_take(t, ']', "]")) return NULL;
    *t->pile++ = element;
    return asthra__ffi_make(t, ASTHRA_FFI_ARRAY, list, count);
}

static const AsthraFFIType *asthra__ffi_read_type(Asthra__FFIText *t) {
    const char c = asthra__ffi_peek(t);
    const AsthraFFIType *type = asthra__ffi_letter(c);
    if (type != NULL) {
        t->at++;
        return type;
    }
    if (c == 0 || strchr("{<[", c) == NULL) {
        t->expected = "a type";
    } else if (++t->depth > 64) {
        t->expected = "at most 64 levels";
    } else {
        t->at++;
        type = c == '{'   ? asthra__ffi_read_block(t, ASTHRA_FFI_STRUCT, '}')
               : c == '<' ? asthra__ffi_read_block(t, ASTHRA_FFI_UNION, '>')
                          : asthra__ffi_read_array(t);
        t->depth--;
    }
    return type;
}

/* "i(dp...s)" */
static void asthra__ffi_read(Asthra__FFIText *t, Asthra__FFISignature *s) {
    s->params = t->pile;
    if (asthra__ffi_peek(t) == 'v')
        t->at++;
    else
        s->result = asthra__ffi_read_type(t);
    if (t->expected == NULL) asthra__ffi_take(t, '(', "(");
    while (t->expected == NULL && asthra__ffi_peek(t) != ')') {
        if (!s->is_variadic && strncmp(t->at, "...", 3) == 0) {
            s->is_variadic = true;
            s->nfixed = s->nparams;
            t->at += 3;
            continue;
        }
        const AsthraFFIType *type = asthra__ffi_read_type(t);
        if (type == NULL) break;
        *t->pile++ = type;
        s->nparams++;
    }
    if (t->expected == NULL) asthra__ffi_take(t, ')', ")");
    if (t->expected == NULL) asthra__ffi_take(t, 0, "the end");
    if (!s->is_variadic) s->nfixed = s->nparams;
}

/* What was expected, and the text or, of a long one, what is around. */
ASTHRA__COLD static AsthraResult asthra__ffi_misread(const Asthra__FFIText *t) {
    const char found[] = {'\'', *t->at, '\'', 0};
    size_t at = (size_t)(t->at - t->text), from = at > 60 ? at - 60 : 0, rest = strlen(t->at);
    int length = (int)(at - from + (rest < 60 ? rest : 60));
    return asthra_result_errorf(
        ASTHRA_INVALID, "asthra_ffi_signature: expected %s at %zu, found %s: \"%s%.*s%s\"",
        t->expected, at, *t->at != 0 ? found : "the end", from > 0 ? "..." : "", length,
        t->text + from, rest > 60 ? "..." : "");
}

/* `pile` has room for a type from each byte. */
static AsthraResult asthra__ffi_plan_read(Asthra__FFIPlan *p, const char *text, size_t blocks,
                                          const AsthraFFIType **pile) {
    Asthra__FFISignature s = {NULL, NULL, 0, 0, false};
    Asthra__FFIText t = {text, text, NULL, NULL, pile, 0, NULL};
    size_t length = strlen(text);
    AsthraFFIType *types = NULL;
    if (blocks != 0) {
        types = asthra__alloc(blocks * sizeof *types + length * sizeof(void *));
        if (types == NULL)
            return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY,
                                        "asthra_ffi_signature: out of memory");
        t.types = types;
        t.fields = (const AsthraFFIType **)(void *)(types + blocks);
    }
    asthra__ffi_read(&t, &s);
    AsthraResult r = t.expected != NULL ? asthra__ffi_misread(&t)
                                        : asthra__ffi_plan_for(p, ASTHRA_FFI_ABI_DEFAULT, &s);
    if (r.status)
        asthra__free(types);
    else
        p->types = types;
    return r;
}

ASTHRA__FN AsthraResult asthra__ffi_plan_text(Asthra__FFIPlan *p, const char *text) {
    const AsthraFFIType *few[64], **pile = few;
    size_t length = strlen(text), blocks = 0;
    if (length > 65536)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_ffi_signature: %zu bytes, at most 65536", length);
    for (const char *c = text; *c != 0; c++) blocks += strchr("{<[", *c) != NULL;
    if (length > sizeof few / sizeof *few) pile = asthra__alloc(length * sizeof *pile);
    if (pile == NULL)
        return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "asthra_ffi_signature: out of memory");
    AsthraResult r = asthra__ffi_plan_read(p, text, blocks, pile);
    if (pile != few) asthra__free(pile);
    return r;
}

#endif
