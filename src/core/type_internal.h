/* type - when two descriptions are one type.                               [type] internal */
#ifndef ASTHRA__TYPE_INTERNAL_H
#define ASTHRA__TYPE_INTERNAL_H

#include "../platform/compiler_internal.h"
#include "type.h"

#if ASTHRA_HAS_TYPE

/* The same pointer, or name, size and alignment agree; NULL, or no name, equals nothing else. */
ASTHRA__FN bool asthra__type_same(const AsthraTypeInfo *a, const AsthraTypeInfo *b);

/* Made of its base: `size` bytes without fields, called as the base with `ending` behind it. */
ASTHRA__FN bool asthra__type_is_made(const AsthraTypeInfo *t, const char *ending, size_t size);

#endif
#endif
