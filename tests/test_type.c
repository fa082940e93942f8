/* Type descriptions: static data, and when two are one type. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

typedef struct Node {
    struct Node *next;
    int value;
    struct Node *other;
} Node;

ASTHRA_TYPE_POINTERS(Node, ASTHRA__OFFSET(Node, next), ASTHRA__OFFSET(Node, other));

static void destroy_node(void *object) {
    ((Node *)object)->value = 0;
}

static const AsthraFieldInfo node_fields[] = {
    ASTHRA_FIELD(Node, next, &asthra_type_pointer),
    ASTHRA_FIELD(Node, value, &asthra_type_i32),
};

static const AsthraTypeInfo whole_type = {
    .name = "Whole",
    .size = sizeof(Node),
    .base = &Node_type,
    .fields = node_fields,
    .field_count = 2,
    .destroy = destroy_node,
};

TEST(type, pointer_offsets_are_static_data) {
    CHECK_STR(Node_type.name, "Node");
    CHECK_EQ(Node_type.size, sizeof(Node));
    CHECK_EQ(Node_type.alignment, _Alignof(Node));
    CHECK_EQ(Node_type.pointer_count, 2);
    CHECK_EQ(Node_type.pointer_offsets[0], 0);
    CHECK_EQ(Node_type.pointer_offsets[1], offsetof(Node, other));
    CHECK(Node_type.trace == NULL && Node_type.destroy == NULL && Node_type.base == NULL);
}

TEST(type, fields_name_their_place_and_type) {
    CHECK_STR(whole_type.fields[1].name, "value");
    CHECK_EQ(whole_type.fields[1].offset, offsetof(Node, value));
    CHECK(asthra__type_same(whole_type.fields[1].type, &asthra_type_i32));
}

TEST(type, ready_made_types_fit_their_c_types) {
    CHECK_EQ(asthra_type_bool.size, sizeof(bool));
    CHECK_EQ(asthra_type_i8.size, 1);
    CHECK_EQ(asthra_type_u16.size, 2);
    CHECK_EQ(asthra_type_i64.size, 8);
    CHECK_EQ(asthra_type_f32.size, sizeof(float));
    CHECK_EQ(asthra_type_f64.alignment, __alignof__(double));
    CHECK_STR(asthra_type_u64.name, "u64");
    CHECK_EQ(asthra_type_pointer.pointer_count, 1);
    CHECK_EQ(asthra_type_pointer.pointer_offsets[0], 0);
    CHECK_EQ(asthra_type_string.size, sizeof(AsthraString));
    CHECK_EQ(asthra_type_string.pointer_offsets[0], offsetof(AsthraString, data));
    CHECK_EQ(asthra_type_optional_string.size, sizeof(void *));
    CHECK_EQ(asthra_type_i32.pointer_count, 0);
}

TEST(type, copies_are_the_same_type) {
    char name[] = "i32"; /* another address than the literal's */
    AsthraTypeInfo copy = asthra_type_i32;
    copy.name = name;
    CHECK(asthra__type_same(&copy, &asthra_type_i32));
    CHECK(asthra__type_same(&asthra_type_i32, &copy));
}

TEST(type, name_size_and_alignment_tell_types_apart) {
    AsthraTypeInfo copy = asthra_type_i32;
    CHECK(!asthra__type_same(&asthra_type_i32, &asthra_type_u32));
    copy.size++;
    CHECK(!asthra__type_same(&copy, &asthra_type_i32));
    copy = asthra_type_i32;
    copy.alignment *= 2;
    CHECK(!asthra__type_same(&copy, &asthra_type_i32));
}

TEST(type, nameless_types_are_same_by_address_alone) {
    static const AsthraTypeInfo a, b;
    CHECK(asthra__type_same(&a, &a));
    CHECK(!asthra__type_same(&a, &b));
    CHECK(!asthra__type_same(&a, &asthra_type_i8));
    CHECK(!asthra__type_same(&asthra_type_i8, &a));
}

TEST(type, null_is_the_same_as_null_alone) {
    CHECK(asthra__type_same(NULL, NULL));
    CHECK(!asthra__type_same(NULL, &asthra_type_i8));
    CHECK(!asthra__type_same(&asthra_type_i8, NULL));
}

typedef enum Direction { NORTH, SOUTH } Direction;
static const AsthraTypeInfo Direction_type = ASTHRA_TYPE_ENUM(Direction, &asthra_type_u32),
                            maybe_node = ASTHRA_TYPE_OPTIONAL("Node", &Node_type),
                            nodes = ASTHRA_TYPE_SLICE("Node", &Node_type),
                            compare = ASTHRA_TYPE_CALLBACK("i(pp)");

TEST(type, types_made_of_others_are_known_by_their_names) {
    CHECK_EQ(Direction_type.size, sizeof(Direction));
    CHECK(Direction_type.base == &asthra_type_u32);
    CHECK_STR(compare.name, "callback i(pp)");
    CHECK_EQ(compare.size, sizeof(AsthraClosure));
    CHECK_EQ(compare.pointer_offsets[0], offsetof(AsthraClosure, env));
    CHECK(asthra__type_is_made(&maybe_node, "?", sizeof(void *)));
    CHECK(!asthra__type_is_made(&maybe_node, "[]", sizeof(void *)));
    CHECK(!asthra__type_is_made(&maybe_node, "?", sizeof(AsthraSlice)));
    CHECK(asthra__type_is_made(&nodes, "[]", sizeof(AsthraSlice)));
    CHECK(!asthra__type_is_made(&asthra_type_optional_string, "?", sizeof(void *)));
    AsthraTypeInfo other = maybe_node;
    other.base = &whole_type;
    CHECK(!asthra__type_is_made(&other, "?", sizeof(void *)));
    other = maybe_node;
    other.fields = node_fields;
    other.field_count = 1;
    CHECK(!asthra__type_is_made(&other, "?", sizeof(void *)));
}

static int doubled(int x) {
    return 2 * x;
}

TEST(type, methods_hold_functions) {
    static AsthraMethodInfo methods[1] = {{"doubled", NULL}};
    typedef int (*IntFunction)(int);
    methods[0].function = ASTHRA_FN(doubled);
    CHECK_EQ(ASTHRA_FN_AS(IntFunction, methods[0].function)(21), 42);
}

/* ---- those of modules ---- */

static const AsthraTypeInfo *const list_types[] = {&Node_type, &whole_type, NULL};
static const AsthraTypeInfo *const text_types[] = {&asthra_type_string, NULL};
static const AsthraModule plain_module = {.name = "plain"};
static const AsthraModule *const text_needs[] = {&plain_module, NULL};
static const AsthraModule text_module = {.name = "text", .types = text_types, .needs = text_needs};
static const AsthraModule *const list_needs[] = {&text_module, NULL};
static const AsthraModule list_module = {.name = "list", .types = list_types, .needs = list_needs};

static AsthraResult lack(const AsthraModule *m) {
    (void)m;
    return asthra_result_err("lacks");
}
static const AsthraModule lacking = {.name = "lacking", .types = list_types, .init = lack};

static char seen[64];
static bool see(const AsthraTypeInfo *type, const AsthraModule *m, void *stop) {
    snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s.%s ", m->name, type->name);
    return type != stop;
}

TEST(type, those_of_modules_are_kept_until_shutdown_needs_first) {
    CHECK_EQ(asthra_module_register(&list_module).status, ASTHRA_OK);
    CHECK_EQ(asthra_module_register(&lacking).status, ASTHRA_FAILED);
    asthra__module_each_type(see, NULL);
    CHECK_STR(seen, "text.string list.Node list.Whole ");
    seen[0] = '\0';
    asthra__module_each_type(see, (void *)(uintptr_t)&Node_type);
    CHECK_STR(seen, "text.string list.Node ");
    seen[0] = '\0';
    asthra_runtime_shutdown();
    asthra__module_each_type(see, NULL);
    CHECK_STR(seen, "");
}
