/* type - comparing descriptions.                                           [type] body
 *
 * Identity is by content, since each translation unit and each shared object may hold a copy of a
 * description. Layout beyond size and alignment is not compared: a name stands for one type in a
 * program, and size and alignment catch two versions of it. Descriptions without a name have
 * nothing to be recognised by, so each of them is a type of its own.
 */
#include "type_internal.h"

#if ASTHRA_HAS_TYPE

#include <string.h>

ASTHRA__FN bool asthra__type_same(const AsthraTypeInfo *a, const AsthraTypeInfo *b) {
    if (a == b) return true;
    if (!a || !b || !a->name || !b->name) return false;
    return a->size == b->size && a->alignment == b->alignment && *a->name == *b->name &&
           strcmp(a->name, b->name) == 0;
}

ASTHRA__FN bool asthra__type_is_made(const AsthraTypeInfo *t, const char *ending, size_t size) {
    if (!t->name || !t->base || !t->base->name || t->field_count != 0 || t->size != size)
        return false;
    size_t length = strlen(t->base->name);
    return strncmp(t->name, t->base->name, length) == 0 && strcmp(t->name + length, ending) == 0;
}

#endif
