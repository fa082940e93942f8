/* Marshaling: what C gets of the runtime's values and what comes back, who cleans up and when. */
#include "test.h"

#include "asthra_rt.h"

#include <stdatomic.h>

#if !ASTHRA_HAS_MARSHAL
TEST(marshal, is_not_in_this_build) {
    SKIP("no marshaling in this build");
}
#else

#define STRING(text) ((AsthraString){sizeof(text) - 1, (text)})
/* A static call that is made from type descriptions. */
#define TYPED_CALL(name, function, returns, ...)                                            \
    static const AsthraTypeInfo *const name##_types[] = {__VA_ARGS__};                      \
    static AsthraFFICall name = {.function_ptr = ASTHRA_FN(function),                       \
                                 .param_types = name##_types,                               \
                                 .param_count = sizeof name##_types / sizeof *name##_types, \
                                 .return_type = (returns)}

#define SIZE_TYPE (sizeof(size_t) == 8 ? &asthra_type_u64 : &asthra_type_u32)

#define HAS(r, words) CHECK(strstr(asthra_result_message(r), words) != NULL)

static AsthraResult call_1(AsthraFFICall *c, void *ret, void *a) {
    return asthra_ffi_call_into(c, ret, (void *[]){a});
}

/* What happened, in words. */
static char story[256];
static void tell(const char *word) {
    strncat(story, word, sizeof story - strlen(story) - 1);
}

/* ---- strings ---- */

TEST(marshal, a_string_passes_as_bytes_with_a_nul) {
    TYPED_CALL(call, strlen, SIZE_TYPE, &asthra_type_string);
    AsthraString part = {3, "abcdef"};
    AsthraResult r = asthra_ffi_call(&call, (void *[]){&part});
    CHECK_EQ(r.status, ASTHRA_OK);
    CHECK_EQ(r.value.integer, 3);
    r = asthra_ffi_call_safe(&call, (void *[]){&STRING("four")});
    CHECK_EQ(r.value.integer, 4);
}

static const char *seen_text;
static char seen_copy[64];
static int32_t looks(const char *text) {
    seen_text = text;
    snprintf(seen_copy, sizeof seen_copy, "%s", text ? text : "(NULL)");
    return 7;
}
TYPED_CALL(looks_call, looks, &asthra_type_i32, &asthra_type_string);

TEST(marshal, an_empty_string_without_data_is_empty_and_not_null) {
    AsthraString none = {0, NULL};
    CHECK_EQ(asthra_ffi_call(&looks_call, (void *[]){&none}).value.integer, 7);
    CHECK(seen_text != NULL);
    CHECK_STR(seen_copy, "");
}

TEST(marshal, a_nul_inside_a_string_is_an_error_that_says_where) {
    AsthraString bad = {5, "ab\0cd"};
    seen_text = seen_copy;
    AsthraResult r = asthra_ffi_call(&looks_call, (void *[]){&bad});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    HAS(r, "5 bytes has a NUL at byte 2");
    CHECK(seen_text == seen_copy); /* nobody was called */
    bad = (AsthraString){4, NULL};
    HAS(asthra_ffi_call(&looks_call, (void *[]){&bad}), "4 bytes has no data");
}

TEST(marshal, an_optional_string_is_null_or_bytes) {
    TYPED_CALL(call, looks, NULL, &asthra_type_optional_string);
    AsthraString text = STRING("here"), *there = &text, *nowhere = NULL;
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&there}).status, ASTHRA_OK);
    CHECK_STR(seen_copy, "here");
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&nowhere}).status, ASTHRA_OK);
    CHECK_STR(seen_copy, "(NULL)");
}

static char *same(char *text) {
    return text;
}
static char c_text[] = "from C";

TEST(marshal, a_returned_string_is_a_copy_that_its_marshaler_ends) {
    TYPED_CALL(call, same, &asthra_type_string, &asthra_type_pointer);
    char *text = c_text, *none = NULL;
    AsthraString back;
    CHECK_EQ(call_1(&call, &back, &text).status, ASTHRA_OK);
    CHECK_EQ(back.length, 6);
    CHECK(back.data != c_text);
    CHECK_STR(back.data, "from C");
    asthra_marshaler_string.cleanup_asthra(&back, NULL);
    CHECK(back.data == NULL);
    AsthraResult r = call_1(&call, &back, &none);
    CHECK_EQ(r.status, ASTHRA_INVALID);
    HAS(r, "NULL");
    HAS(asthra_ffi_call(&call, (void *[]){&text}), "asthra_ffi_call_into");
}

TEST(marshal, a_returned_optional_string_is_a_word) {
    TYPED_CALL(call, same, &asthra_type_optional_string, &asthra_type_optional_string);
    AsthraString text = STRING("there and back"), *there = &text, *none = NULL;
    AsthraString *back = asthra_ffi_call(&call, (void *[]){&there}).value.pointer;
    CHECK(back != NULL && back != &text && back->data != text.data);
    CHECK_EQ(back->length, text.length);
    CHECK_STR(back->data, text.data);
    asthra_marshaler_optional_string.cleanup_asthra(&back, NULL);
    CHECK(back == NULL);
    CHECK_EQ(call_1(&call, &back, &none).status, ASTHRA_OK);
    CHECK(back == NULL);
}

static int freed;
static void counts_and_frees(void *block) {
    freed++;
    free(block);
}

TEST(marshal, a_full_result_is_freed_once_a_value_was_made_of_it) {
    TYPED_CALL(call, strdup, &asthra_type_string, &asthra_type_string);
    call.transfer = ASTHRA_TRANSFER_FULL;
    AsthraString text = STRING("given away"), back;
    CHECK_EQ(asthra_ffi_set_return_free(&call, counts_and_frees).status, ASTHRA_OK);
    CHECK_EQ(call_1(&call, &back, &text).status, ASTHRA_OK);
    CHECK_STR(back.data, "given away");
    CHECK_EQ(freed, 1);
    CHECK_EQ(asthra_ffi_transferred_count(), 0);
    asthra_marshaler_string.cleanup_asthra(&back, NULL);
}

/* ---- bool, enums ---- */

static unsigned char seen_byte;
static unsigned char byte_of(bool b) {
    memcpy(&seen_byte, &b, 1);
    return seen_byte;
}
static unsigned char gives_byte(unsigned char b) {
    return b;
}

TEST(marshal, a_bool_is_0_or_1_on_either_side) {
    TYPED_CALL(down, byte_of, &asthra_type_u8, &asthra_type_bool);
    TYPED_CALL(up, gives_byte, &asthra_type_bool, &asthra_type_u8);
    unsigned char odd = 0x40, zero = 0, got = 9;
    CHECK_EQ(asthra_ffi_call(&down, (void *[]){&odd}).value.integer, 1);
    CHECK_EQ(asthra_ffi_call(&down, (void *[]){&zero}).value.integer, 0);
    CHECK_EQ(asthra_ffi_call(&up, (void *[]){&odd}).value.integer, 1);
    CHECK_EQ(call_1(&up, &got, &zero).status, ASTHRA_OK);
    CHECK_EQ(got, 0);
    AsthraFFICall bare; /* without a marshaler too */
    CHECK_EQ(asthra_ffi_signature(&bare, ASTHRA_FN(gives_byte), "B(C)").status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_call(&bare, (void *[]){&odd}).value.integer, 1);
    asthra_ffi_release(&bare);
}

typedef enum Color { RED, GREEN = -5, BLUE = 70000 } Color;
static const AsthraTypeInfo Color_type = ASTHRA_TYPE_ENUM(Color, &asthra_type_i32);

static Color next_color(Color c) {
    return c == RED ? GREEN : BLUE;
}

TEST(marshal, an_enum_passes_as_its_base) {
    TYPED_CALL(call, next_color, &Color_type, &Color_type);
    Color c = RED;
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&c}).value.integer, GREEN);
    CHECK_EQ(asthra_ffi_type_of(&Color_type)->kind, ASTHRA_FFI_S32);
    const AsthraTypeMarshaler *m = asthra_marshaler_find(&Color_type);
    CHECK(m != NULL && m->c_type->kind == ASTHRA_FFI_S32);
    c = BLUE;
    Color *copy = asthra_marshal_to_c(&c, &Color_type);
    CHECK(copy != NULL && copy != &c && *copy == BLUE);
    asthra_marshal_free(copy, &Color_type);
}

TEST(marshal, another_name_of_a_string_is_a_string) {
    static const AsthraTypeInfo name_type =
        ASTHRA__TYPE_OF("name", AsthraString, asthra__string_data, 1, &asthra_type_string);
    TYPED_CALL(call, looks, NULL, &name_type);
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&STRING("Ada")}).status, ASTHRA_OK);
    CHECK_STR(seen_copy, "Ada");
    CHECK(asthra_marshaler_find(&name_type)->asthra_type == &name_type);
    char *text = asthra_marshal_to_c(&STRING("Eve"), &name_type);
    CHECK_STR(text, "Eve");
    asthra_marshal_free(text, &name_type);
}

/* ---- slices ---- */

static int32_t sum(const int32_t *numbers, uint64_t count) {
    int32_t all = 0;
    for (uint64_t i = 0; i < count; i++) all += numbers[i];
    return all;
}
static const void *seen_pointer;
static void sees(const void *pointer) {
    seen_pointer = pointer;
}

TEST(marshal, a_slice_passes_as_a_pointer_to_its_elements) {
    TYPED_CALL(call, sum, &asthra_type_i32, &asthra_type_slice, &asthra_type_u64);
    TYPED_CALL(looking, sees, NULL, &asthra_type_slice);
    int32_t numbers[] = {1, 20, 300};
    AsthraSlice s = {numbers, 3, sizeof *numbers};
    uint64_t count = 3;
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&s, &count}).value.integer, 321);
    CHECK_EQ(asthra_ffi_call(&looking, (void *[]){&s}).status, ASTHRA_OK);
    CHECK(seen_pointer == numbers);
    s = (AsthraSlice){NULL, 0, sizeof *numbers};
    CHECK_EQ(asthra_ffi_call(&looking, (void *[]){&s}).status, ASTHRA_OK);
    CHECK(seen_pointer == NULL);
    s = (AsthraSlice){numbers, 3, 0};
    HAS(asthra_ffi_call(&looking, (void *[]){&s}), "element_size of 0");
    s = (AsthraSlice){NULL, 3, 4};
    HAS(asthra_ffi_call(&looking, (void *[]){&s}), "3 elements has no data");
}

static const AsthraTypeInfo strings = ASTHRA_TYPE_SLICE("string", &asthra_type_string),
                            numbers = ASTHRA_TYPE_SLICE("i32", &asthra_type_i32);

static int32_t joins(char *const *argv) {
    int32_t count = 0;
    for (; argv[count]; count++) tell(argv[count]);
    return count;
}
TYPED_CALL(joins_call, joins, &asthra_type_i32, &strings);

TEST(marshal, a_slice_of_strings_is_an_argv) {
    AsthraString words[] = {STRING("one "), STRING("two "), STRING("three")};
    AsthraSlice s = {words, 3, sizeof *words};
    CHECK_EQ(asthra_ffi_call(&joins_call, (void *[]){&s}).value.integer, 3);
    CHECK_STR(story, "one two three");
    s.length = 0;
    CHECK_EQ(asthra_ffi_call(&joins_call, (void *[]){&s}).value.integer, 0);
    s = (AsthraSlice){words, 3, 5};
    HAS(asthra_ffi_call(&joins_call, (void *[]){&s}), "element_size of 5, expected");
    s = (AsthraSlice){words, SIZE_MAX / 4, sizeof *words};
    CHECK_EQ(asthra_ffi_call(&joins_call, (void *[]){&s}).status, ASTHRA_OUT_OF_MEMORY);
}

TEST(marshal, a_slice_of_scalars_is_not_copied) {
    TYPED_CALL(call, sees, NULL, &numbers);
    int32_t three[3] = {1, 2, 3};
    AsthraSlice s = {three, 3, sizeof *three};
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&s}).status, ASTHRA_OK);
    CHECK(seen_pointer == three);
}

TEST(marshal, a_slice_has_no_way_back) {
    TYPED_CALL(call, same, &asthra_type_slice, &asthra_type_string);
    AsthraSlice back;
    AsthraResult r = call_1(&call, &back, &STRING("x"));
    CHECK_EQ(r.status, ASTHRA_INVALID);
    HAS(r, "return: type 'slice' has no way back");
    CHECK(asthra_marshal_to_asthra(&back, &asthra_type_slice) == NULL);
    HAS(asthra_last_error(), "has no way back");
    CHECK(asthra_marshaler_find(&asthra_type_slice)->c_to_asthra == NULL);
}

/* ---- structs ---- */

typedef struct Person {
    AsthraString name;
    bool is_member;
    int32_t age;
    AsthraString *nick;
    Color color;
} Person;
static const AsthraFieldInfo Person_fields[] = {
    ASTHRA_FIELD(Person, name, &asthra_type_string),
    ASTHRA_FIELD(Person, is_member, &asthra_type_bool), ASTHRA_FIELD(Person, age, &asthra_type_i32),
    ASTHRA_FIELD(Person, nick, &asthra_type_optional_string),
    ASTHRA_FIELD(Person, color, &Color_type)};
#define STRUCT_TYPE(T, base_)                                                        \
    {                                                                                \
        .name = #T, .size = sizeof(T), .alignment = __alignof__(T), .base = (base_), \
        .fields = T##_fields, .field_count = sizeof T##_fields / sizeof *T##_fields  \
    }
static const AsthraTypeInfo Person_type = STRUCT_TYPE(Person, NULL);

typedef struct CPerson {
    char *name;
    bool is_member;
    int32_t age;
    char *nick;
    Color color;
} CPerson;

typedef struct Team {
    int16_t id;
    Person lead, second;
} Team;
static const AsthraFieldInfo Team_fields[] = {ASTHRA_FIELD(Team, id, &asthra_type_i16),
                                              ASTHRA_FIELD(Team, lead, &Person_type),
                                              ASTHRA_FIELD(Team, second, &Person_type)};
static const AsthraTypeInfo Team_type = STRUCT_TYPE(Team, NULL);

typedef struct CTeam {
    int16_t id;
    CPerson lead, second;
} CTeam;

static AsthraString nick = {4, "Bobby"};
static const Team some_team = {
    3, {{3, "Ann"}, true, 41, NULL, GREEN}, {{6, "Robert"}, false, 14, &nick, BLUE}};

static CTeam swaps(CTeam t) {
    CTeam other = {(int16_t)(t.id + 1), t.second, t.lead};
    static char name[32], short_name[32];
    other.lead.name = strcpy(name, t.second.name);
    other.lead.nick = strcpy(short_name, t.second.nick);
    other.second.name = "somebody";
    return other;
}

TEST(marshal, a_struct_with_strings_is_marshaled_field_by_field) {
    TYPED_CALL(call, swaps, &Team_type, &Team_type);
    Team team = some_team, back;
    CHECK_EQ(call_1(&call, &back, &team).status, ASTHRA_OK);
    CHECK_EQ(back.id, 4);
    CHECK_STR(back.lead.name.data, "Robert");
    CHECK_EQ(back.lead.name.length, 6);
    CHECK(!back.lead.is_member && back.second.is_member);
    CHECK_EQ(back.lead.age, 14);
    CHECK_STR(back.lead.nick->data, "Bobb");
    CHECK_EQ(back.lead.color, BLUE);
    CHECK_STR(back.second.name.data, "somebody");
    CHECK(back.second.nick == NULL);
    const AsthraTypeMarshaler *m = asthra_marshaler_find(&Team_type);
    m->cleanup_asthra(&back, m->user);
    CHECK(back.lead.name.data == NULL && back.lead.nick == NULL);
}

TEST(marshal, c_s_struct_is_laid_out_as_c_does) {
    const AsthraTypeMarshaler *m = asthra_marshaler_find(&Team_type);
    size_t size, align, offset[3];
    CHECK_EQ(asthra_ffi_layout(m->c_type, &size, &align, offset).status, ASTHRA_OK);
    CHECK_EQ(size, sizeof(CTeam));
    CHECK_EQ(align, _Alignof(CTeam));
    CHECK_EQ(offset[1], offsetof(CTeam, lead));
    CHECK_EQ(offset[2], offsetof(CTeam, second));
}

typedef struct Worker {
    Person person;
    double wage;
} Worker;
static const AsthraFieldInfo Worker_fields[] = {ASTHRA_FIELD(Worker, wage, &asthra_type_f64)};
static const AsthraTypeInfo Worker_type = STRUCT_TYPE(Worker, &Person_type);
typedef struct CWorker {
    CPerson person;
    double wage;
} CWorker;
static double earns(CWorker w) {
    looks(w.person.name);
    return w.wage * w.person.age;
}

TEST(marshal, a_base_is_the_first_field) {
    TYPED_CALL(call, earns, &asthra_type_f64, &Worker_type);
    Worker w = {some_team.lead, 2.5};
    AsthraResult r = asthra_ffi_call(&call, (void *[]){&w});
    CHECK(r.value.real > 102.4 && r.value.real < 102.6);
    CHECK_STR(seen_copy, "Ann");
}

typedef struct Plain {
    int32_t n;
    bool b;
    Color c;
} Plain;
static const AsthraFieldInfo Plain_fields[] = {ASTHRA_FIELD(Plain, n, &asthra_type_i32),
                                               ASTHRA_FIELD(Plain, b, &asthra_type_bool),
                                               ASTHRA_FIELD(Plain, c, &Color_type)};
static const AsthraTypeInfo Plain_type = STRUCT_TYPE(Plain, NULL);
static int32_t adds(Plain p) {
    return p.n + p.b + (int32_t)p.c;
}

TEST(marshal, a_struct_that_needs_nothing_has_no_marshaler_and_passes) {
    TYPED_CALL(call, adds, &asthra_type_i32, &Plain_type);
    Plain p = {100, true, GREEN};
    CHECK(asthra_marshaler_find(&Plain_type) == NULL);
    HAS(asthra_last_error(), "type 'Plain' has no marshaler");
    CHECK(asthra_marshaler_find(&asthra_type_i32) == NULL);
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&p}).value.integer, 96);
}

typedef struct Single {
    AsthraString *text;
} Single;
static const AsthraFieldInfo Single_fields[] = {
    ASTHRA_FIELD(Single, text, &asthra_type_optional_string)};
static const AsthraTypeInfo Single_type = STRUCT_TYPE(Single, NULL);
typedef struct CSingle {
    char *text;
} CSingle;
static CSingle same_single(CSingle s) {
    return s;
}

TEST(marshal, a_struct_is_no_word_however_small) {
    TYPED_CALL(call, same_single, &Single_type, &Single_type);
    AsthraString text = STRING("small");
    Single s = {&text}, back;
    HAS(asthra_ffi_call(&call, (void *[]){&s}), "asthra_ffi_call_into");
    CHECK_EQ(call_1(&call, &back, &s).status, ASTHRA_OK);
    CHECK_STR(back.text->data, "small");
    asthra_marshaler_optional_string.cleanup_asthra(&back.text, NULL);
}

typedef struct Opaque {
    char bytes[24];
} Opaque;
static const AsthraTypeInfo Opaque_type = {.name = "Opaque", .size = 24, .alignment = 1};
typedef struct Holder {
    AsthraString name;
    Opaque opaque;
} Holder;
static const AsthraFieldInfo Holder_fields[] = {ASTHRA_FIELD(Holder, name, &asthra_type_string),
                                                ASTHRA_FIELD(Holder, opaque, &Opaque_type)};
static const AsthraTypeInfo Holder_type = STRUCT_TYPE(Holder, NULL);
static const AsthraTypeInfo bad_callback = ASTHRA_TYPE_CALLBACK("i(p");

TEST(marshal, a_type_without_marshaler_and_layout_is_named) {
    TYPED_CALL(call, sees, NULL, &asthra_type_i32, &Opaque_type);
    TYPED_CALL(holding, sees, NULL, &Holder_type);
    TYPED_CALL(calling, sees, NULL, &bad_callback);
    Opaque o = {{0}};
    AsthraResult r = asthra_ffi_call(&call, (void *[]){&o, &o});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    HAS(r, "parameter 1: type 'Opaque' has no marshaler, and no C layout");
    r = asthra_ffi_call(&holding, (void *[]){&o});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    HAS(r, "parameter 0: type 'Opaque' has no marshaler");
    CHECK(asthra_marshaler_find(&Holder_type) == NULL);
    HAS(asthra_ffi_call(&calling, (void *[]){&o}), "asthra_ffi_signature: expected");
    CHECK(asthra_marshal_to_c(&o, &Opaque_type) == NULL);
    HAS(asthra_last_error(), "asthra_marshal_to_c: type 'Opaque' has no marshaler");
}

extern const AsthraTypeInfo Snake_type;
static const AsthraFieldInfo Snake_fields[] = {{"text", 0, &asthra_type_string},
                                               {"tail", 0, &Snake_type}};
const AsthraTypeInfo Snake_type = {
    .name = "Snake", .size = 64, .fields = Snake_fields, .field_count = 2};
static const AsthraFieldInfo Wide_fields[] = {{"text", 8, &asthra_type_string}};
static const AsthraTypeInfo Wide_type = {
    .name = "Wide", .size = sizeof(AsthraString), .fields = Wide_fields, .field_count = 1};

TEST(marshal, a_type_that_cannot_be_is_refused) {
    CHECK(asthra_marshaler_find(&Snake_type) == NULL);
    HAS(asthra_last_error(), "'Snake' contains itself, or nests deeper than 64");
    CHECK(asthra_marshaler_find(&Wide_type) == NULL);
    HAS(asthra_last_error(), "'Wide' has a field of no type, or outside of it");
    CHECK(asthra_marshaler_find(NULL) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
}

/* A tower of types, each twice in the next: looked at once each. */
TEST(marshal, types_that_hold_others_twice_are_looked_at_once) {
    enum { FLOORS = 40 };
    static AsthraTypeInfo floors[FLOORS];
    static AsthraFieldInfo rooms[FLOORS][2];
    static char names[FLOORS][8];
    for (int i = 0; i < FLOORS; i++) {
        snprintf(names[i], sizeof names[i], "F%d", i);
        floors[i] = (AsthraTypeInfo){.name = names[i], .size = 1};
        if (i == 0) continue;
        rooms[i][0] = rooms[i][1] = (AsthraFieldInfo){"room", 0, &floors[i - 1]};
        floors[i].fields = rooms[i];
        floors[i].field_count = 2;
    }
    CHECK(asthra_marshaler_find(&floors[FLOORS - 1]) == NULL);
}

/* ---- optionals ---- */

typedef struct Node Node;
struct Node {
    AsthraString text;
    Node *next;
};
extern const AsthraTypeInfo Node_type;
static const AsthraTypeInfo maybe_node = ASTHRA_TYPE_OPTIONAL("Node", &Node_type),
                            maybe_plain = ASTHRA_TYPE_OPTIONAL("Plain", &Plain_type),
                            nodes = ASTHRA_TYPE_SLICE("Node", &Node_type),
                            maybe_bool = ASTHRA_TYPE_OPTIONAL("bool", &asthra_type_bool),
                            maybe_i64 = ASTHRA_TYPE_OPTIONAL("i64", &asthra_type_i64),
                            maybe_opaque = ASTHRA_TYPE_OPTIONAL("Opaque", &Opaque_type);
static const AsthraFieldInfo Node_fields[] = {ASTHRA_FIELD(Node, text, &asthra_type_string),
                                              ASTHRA_FIELD(Node, next, &maybe_node)};
const AsthraTypeInfo Node_type = STRUCT_TYPE(Node, NULL);

typedef struct CNode {
    char *text;
    struct CNode *next;
} CNode;

static CNode *reads(CNode *list) {
    for (CNode *n = list; n; n = n->next) tell(n->text);
    return list;
}
TYPED_CALL(reads_call, reads, &maybe_node, &maybe_node);

TEST(marshal, a_linked_list_goes_there_and_back) {
    Node last = {STRING("c"), NULL}, middle = {STRING("b "), &last},
         first = {STRING("a "), &middle};
    Node *list = &first, *back = NULL;
    CHECK_EQ(call_1(&reads_call, &back, &list).status, ASTHRA_OK);
    CHECK_STR(story, "a b c");
    CHECK(back != NULL && back != list && back->next != &middle);
    CHECK_STR(back->next->next->text.data, "c");
    CHECK(back->next->next->next == NULL);
    const AsthraTypeMarshaler *m = asthra_marshaler_find(&maybe_node);
    m->cleanup_asthra(&back, m->user);
    CHECK(back == NULL);
    list = NULL;
    CHECK_EQ(call_1(&reads_call, &back, &list).status, ASTHRA_OK);
    CHECK(back == NULL);
}

TEST(marshal, a_circle_is_an_error_either_way) {
    Node a = {STRING("a"), NULL}, b = {STRING("b"), &a}, *list = &a, *back;
    a.next = &b;
    AsthraResult r = call_1(&reads_call, &back, &list);
    CHECK_EQ(r.status, ASTHRA_INVALID);
    HAS(r, "type 'Node' leads through more than 128 pointers, or in a circle");
    CHECK_STR(story, "");
    CNode c = {c_text, NULL}, *c_list = &c;
    c.next = &c;
    CHECK(asthra_marshal_to_asthra(&c_list, &maybe_node) == NULL);
    HAS(asthra_last_error(), "128 pointers");
}

#if ASTHRA_HAS_TASK
static void *takes_the_longest(void *unused) {
    Node all[129], *list = all, *back = NULL;
    for (int i = 0; i < 129; i++) all[i] = (Node){STRING("n"), &all[i + 1]};
    all[127].next = NULL; /* 128 pointers lead to it */
    CHECK_EQ(call_1(&reads_call, &back, &list).status, ASTHRA_OK);
    CHECK_EQ(strlen(story), 128);
    for (int i = 0; i < 127; i++) list = list->next;
    CHECK(list == &all[127]);
    const AsthraTypeMarshaler *m = asthra_marshaler_find(&maybe_node);
    m->cleanup_asthra(&back, m->user);
    all[127].next = &all[128];
    all[128].next = NULL;
    list = all;
    CHECK_EQ(call_1(&reads_call, &back, &list).status, ASTHRA_INVALID);
    return unused;
}

TEST(marshal, the_longest_list_fits_on_the_stack_of_a_task) {
    asthra_await(asthra_spawn(takes_the_longest, NULL));
}
#endif

static int32_t counts(const CNode *list) {
    int32_t count = 0;
    for (; list->text != NULL; list++) count += list->next != NULL;
    return count;
}

TEST(marshal, values_side_by_side_are_no_depth) {
    TYPED_CALL(call, counts, &asthra_type_i32, &nodes);
    static Node many[1000];
    Node last = {STRING("end"), NULL};
    for (int i = 0; i < 1000; i++) many[i] = (Node){STRING("one"), &last};
    AsthraSlice s = {many, 1000, sizeof *many};
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&s}).value.integer, 1000);
}

TEST(marshal, an_optional_of_what_needs_nothing_is_the_value_itself) {
    TYPED_CALL(truth, same, &asthra_type_pointer, &maybe_bool);
    bool b = true, *b_there = &b;
    CHECK(asthra_ffi_call(&truth, (void *[]){&b_there}).value.pointer == &b);
    TYPED_CALL(call, same, &asthra_type_pointer, &maybe_plain);
    TYPED_CALL(number, same, &maybe_i64, &maybe_i64);
    Plain p = {1, false, RED}, *there = &p;
    int64_t n = 123456789012, *n_there = &n, *back;
    CHECK(asthra_ffi_call(&call, (void *[]){&there}).value.pointer == &p);
    CHECK_EQ(call_1(&number, &back, &n_there).status, ASTHRA_OK);
    CHECK(back != &n && *back == n);
    const AsthraTypeMarshaler *m = asthra_marshaler_find(&maybe_i64);
    m->cleanup_asthra(&back, m->user);
    CHECK(asthra_ffi_type_of(&maybe_i64) == NULL);
}

TEST(marshal, an_optional_of_what_cannot_pass_names_it) {
    TYPED_CALL(call, same, NULL, &maybe_opaque);
    Opaque *none = NULL;
    HAS(asthra_ffi_call(&call, (void *[]){&none}), "'Opaque' has no marshaler");
}

typedef struct Wide32 {
    _Alignas(32) AsthraString text;
} Wide32;
static const AsthraFieldInfo Wide32_fields[] = {ASTHRA_FIELD(Wide32, text, &asthra_type_string)};
static const AsthraTypeInfo Wide32_type = STRUCT_TYPE(Wide32, NULL),
                            maybe_wide32 = ASTHRA_TYPE_OPTIONAL("Wide32", &Wide32_type);

TEST(marshal, alignment_beyond_malloc_s_is_refused) {
    Wide32 w = {STRING("wide")}, *there = &w;
    CHECK(asthra_marshal_to_c(&there, &maybe_wide32) == NULL);
    HAS(asthra_last_error(), "'Wide32' is aligned more strictly than malloc aligns");
    CHECK(asthra_marshal_to_c(&w, &Wide32_type) == NULL);
}

/* ---- callbacks ---- */

#if ASTHRA_HAS_CLOSURE
static const AsthraTypeInfo compare_type = ASTHRA_TYPE_CALLBACK("i(pp)");
TYPED_CALL(qsort_call, qsort, NULL, &numbers, SIZE_TYPE, SIZE_TYPE, &compare_type);

static void compares(const AsthraFFICall *sig, void *ret, void **args, void *env) {
    const int32_t *a, *b;
    (void)sig;
    memcpy(&a, args[0], sizeof a);
    memcpy(&b, args[1], sizeof b);
    *(int32_t *)ret = (*a > *b) - (*a < *b);
    ++*(int *)env;
}

TEST(marshal, a_callback_is_a_function_until_the_call_ends) {
    int calls = 0;
    int32_t values[] = {5, -3, 900, 0, 7};
    AsthraSlice s = {values, 5, sizeof *values};
    size_t count = 5, size = sizeof *values;
    AsthraClosure by_value = {ASTHRA_FN(compares), &calls};
    for (int round = 0; round < 1000; round++) { /* more than there are stubs without files */
        AsthraResult r = asthra_ffi_call(&qsort_call, (void *[]){&s, &count, &size, &by_value});
        CHECK_EQ(r.status, ASTHRA_OK);
    }
    CHECK(calls > 4000);
    CHECK_EQ(values[0], -3);
    CHECK_EQ(values[4], 900);
}

typedef int32_t (*Kept)(void *, void *);
static Kept kept;
static void keeps(Kept function) {
    kept = function;
}
TYPED_CALL(keeps_call, keeps, NULL, &compare_type);

TEST(marshal, a_callback_without_code_is_null) {
    AsthraClosure none = {NULL, NULL};
    kept = (Kept)(uintptr_t)1;
    CHECK_EQ(asthra_ffi_call(&keeps_call, (void *[]){&none}).status, ASTHRA_OK);
    CHECK(kept == NULL);
}

TEST_PANICS(marshal, a_callback_that_c_kept_has_ended, "a closure was called that has ended") {
    int calls = 0;
    AsthraClosure c = {ASTHRA_FN(compares), &calls};
    CHECK_EQ(asthra_ffi_call(&keeps_call, (void *[]){&c}).status, ASTHRA_OK);
    kept(&calls, &calls);
}

typedef struct Sorter {
    AsthraString name;
    AsthraClosure compare;
} Sorter;
static const AsthraFieldInfo Sorter_fields[] = {ASTHRA_FIELD(Sorter, name, &asthra_type_string),
                                                ASTHRA_FIELD(Sorter, compare, &compare_type)};
static const AsthraTypeInfo Sorter_type = STRUCT_TYPE(Sorter, NULL),
                            maybe_sorter = ASTHRA_TYPE_OPTIONAL("Sorter", &Sorter_type);
typedef struct CSorter {
    char *name;
    Kept compare;
} CSorter;
static int32_t uses(CSorter *s) {
    int32_t small = 1, large = 2, result = s->compare(&small, &large);
    s->compare = NULL; /* its end does not hang on what C leaves there */
    return result;
}

TEST(marshal, a_callback_works_inside_a_struct_behind_a_pointer) {
    TYPED_CALL(call, uses, &asthra_type_i32, &maybe_sorter);
    int calls = 0;
    Sorter s = {STRING("up"), {ASTHRA_FN(compares), &calls}}, *there = &s;
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&there}).value.integer, -1);
    CHECK_EQ(calls, 1);
    CHECK(asthra_marshaler_find(&Sorter_type)->c_to_asthra == NULL);
}
#else
TEST(marshal, a_callback_names_the_define_that_took_it) {
    static const AsthraTypeInfo compare_type = ASTHRA_TYPE_CALLBACK("i(pp)");
    TYPED_CALL(call, sees, NULL, &compare_type);
    AsthraClosure c = {ASTHRA_FN(sees), NULL};
    HAS(asthra_ffi_call(&call, (void *[]){&c}), "ASTHRA_RT_NO_CLOSURE");
}
#endif

/* ---- registered marshalers, and the order of cleanups ---- */

/* A noted value: its text is told when it goes, comes and is cleaned up. */
typedef struct Noted {
    const char *word;
} Noted;
static const AsthraTypeInfo Noted_type = {
    .name = "Noted", .size = sizeof(Noted), .alignment = __alignof__(Noted)};

static int live_notes;
static AsthraResult notes(const void *value, void *c_out, AsthraFFIArena *a, void *user) {
    const Noted *n = value;
    char *copy = asthra_ffi_arena_alloc(a, strlen(n->word) + 1);
    CHECK(user == &Noted_type);
    if (copy == NULL) return asthra_last_error();
    if (*n->word == '!') {
        return asthra_result_err_with_context("a bad word", n);
    }
    strcpy(copy, n->word);
    memcpy(c_out, &copy, sizeof copy);
    tell("+");
    tell(copy);
    live_notes++;
    return asthra_result_ok(NULL);
}
static void forgets(void *c_value, void *user) {
    char *copy;
    memcpy(&copy, c_value, sizeof copy);
    CHECK(user == &Noted_type);
    tell("-");
    tell(copy);
    live_notes--;
}
static AsthraResult takes(const void *c_value, void *out, void *user) {
    Noted *n = out;
    char *text;
    memcpy(&text, c_value, sizeof text);
    CHECK(user == &Noted_type);
    if (*text == '!') return asthra_result_err("a bad word");
    n->word = strdup(text);
    return asthra_result_ok(NULL);
}
static void drops(void *value, void *user) {
    Noted *n = value;
    CHECK(user == &Noted_type);
    tell("~");
    tell(n->word);
    free((void *)(uintptr_t)n->word);
}
static const AsthraTypeMarshaler note = {
    &Noted_type, &asthra_ffi_type_ptr,          notes, takes, forgets,
    drops,       (void *)(uintptr_t)&Noted_type};

typedef struct Pair {
    Noted first;
    int32_t n;
    Noted second;
} Pair;
static const AsthraFieldInfo Pair_fields[] = {ASTHRA_FIELD(Pair, first, &Noted_type),
                                              ASTHRA_FIELD(Pair, n, &asthra_type_i32),
                                              ASTHRA_FIELD(Pair, second, &Noted_type)};
static const AsthraTypeInfo Pair_type = STRUCT_TYPE(Pair, NULL),
                            pairs = ASTHRA_TYPE_SLICE("Pair", &Pair_type);
typedef struct CPair {
    char *first;
    int32_t n;
    char *second;
} CPair;

static int32_t meets(char *one, CPair two, const CPair *more) {
    tell(" ");
    tell(one);
    tell(two.first);
    tell(two.second);
    for (; more != NULL && more->first != NULL; more++) tell(more->second);
    tell(" ");
    return two.n;
}
TYPED_CALL(meets_call, meets, &asthra_type_i32, &Noted_type, &Pair_type, &pairs);

TEST(marshal, cleanups_run_newest_first) {
    CHECK_EQ(asthra_marshaler_register(&note).status, ASTHRA_OK);
    Noted one = {"a"};
    Pair two = {{"b"}, 9, {"c"}}, more[] = {{{"d"}, 0, {"e"}}, {{"f"}, 0, {"g"}}};
    AsthraSlice s = {more, 2, sizeof *more};
    CHECK_EQ(asthra_ffi_call(&meets_call, (void *[]){&one, &two, &s}).value.integer, 9);
    CHECK_STR(story, "+a+b+c+d+e+f+g abceg -g-f-e-d-c-b-a");
}

TEST(marshal, an_error_in_the_middle_cleans_up_what_was_made_and_is_the_result) {
    CHECK_EQ(asthra_marshaler_register(&note).status, ASTHRA_OK);
    Noted one = {"a"};
    Pair two = {{"b"}, 9, {"c"}}, more[] = {{{"d"}, 0, {"!"}}, {{"f"}, 0, {"g"}}};
    AsthraSlice s = {more, 2, sizeof *more};
    AsthraResult r = asthra_ffi_call(&meets_call, (void *[]){&one, &two, &s});
    CHECK_EQ(r.status, ASTHRA_FAILED);
    CHECK_STR(asthra_result_message(r), "a bad word");
    CHECK(asthra_result_context(r) == &more[0].second);
    CHECK_STR(story, "+a+b+c+d-d-c-b-a");
}

static CPair answers(char *one) {
    CPair p = {one, 5, one + 2};
    return p;
}

TEST(marshal, an_error_on_the_way_back_ends_what_was_made) {
    TYPED_CALL(call, answers, &Pair_type, &Noted_type);
    CHECK_EQ(asthra_marshaler_register(&note).status, ASTHRA_OK);
    Pair back;
    AsthraResult r = call_1(&call, &back, &(Noted){"x !"});
    CHECK_EQ(r.status, ASTHRA_FAILED);
    CHECK_STR(story, "+x !~x !-x !");
    story[0] = 0;
    CHECK_EQ(call_1(&call, &back, &(Noted){"x y"}).status, ASTHRA_OK);
    CHECK_STR(back.second.word, "y");
    CHECK_EQ(back.n, 5);
    const AsthraTypeMarshaler *m = asthra_marshaler_find(&Pair_type);
    m->cleanup_asthra(&back, m->user);
    CHECK_STR(story, "+x y-x y~y~x y");
}

static int32_t fails(char *text) {
    tell(" ");
    tell(text);
    errno = EINVAL;
    return -1;
}
TYPED_CALL(fails_call, fails, &asthra_type_i32, &Noted_type);

/* What was made so far is ended, which makes an error of its own. */
static void drops_and_fails(void *value, void *user) {
    drops(value, user);
    asthra_result_errorf(ASTHRA_LIMIT, "of a cleanup");
}
TEST(marshal, an_error_on_the_way_back_is_the_one_that_is_told) {
    TYPED_CALL(call, answers, &Pair_type, &Noted_type);
    AsthraTypeMarshaler m = note;
    CPair c = {strdup("x"), 5, strdup("!")};
    Pair back;
    m.cleanup_asthra = drops_and_fails;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    HAS(call_1(&call, &back, &(Noted){"x !"}), "a bad word");
    CHECK(asthra_marshal_to_asthra(&c, &Pair_type) == NULL);
    HAS(asthra_last_error(), "a bad word");
    free(c.first);
    free(c.second);
}

TEST(marshal, a_call_that_fails_by_its_rule_cleans_up) {
    CHECK_EQ(asthra_marshaler_register(&note).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_error_rule(&fails_call, ASTHRA_FFI_ERROR_NEGATIVE).status, ASTHRA_OK);
    AsthraResult r = asthra_ffi_call(&fails_call, (void *[]){&(Noted){"a"}});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_last_errno(), EINVAL);
    CHECK_STR(story, "+a a-a");
}

/* Cleaning up asks for what is not there, and is told so. */
static void forgets_and_fails(void *c_value, void *user) {
    static AsthraFFICall nothing;
    static const char path[] = "/nowhere/at all", *at = path;
    forgets(c_value, user);
    CHECK_EQ(asthra_ffi_signature(&nothing, ASTHRA_FN(remove), "i(p)").status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_error_rule(&nothing, ASTHRA_FFI_ERROR_NEGATIVE).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_call(&nothing, (void *[]){&at}).status, ASTHRA_FAILED);
    CHECK_EQ(asthra_ffi_last_errno(), ENOENT);
    asthra_ffi_release(&nothing);
    asthra_result_errorf(ASTHRA_LIMIT, "of a cleanup");
}

TEST(marshal, a_cleanup_that_fails_leaves_the_call_its_error) {
    AsthraTypeMarshaler m = note;
    m.cleanup_c = forgets_and_fails;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    fails_call.safety_contract = "takes a word";
    CHECK_EQ(asthra_ffi_set_error_rule(&fails_call, ASTHRA_FFI_ERROR_NEGATIVE).status, ASTHRA_OK);
    AsthraResult r = asthra_ffi_call(&fails_call, (void *[]){&(Noted){"a"}});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_STR(asthra_result_message(r), "Invalid argument in FFI call");
    const AsthraFFIError *e = asthra_result_context(r);
    CHECK(e != NULL && e->errno_value == EINVAL);
    CHECK_STR(e->context, "takes a word");
    CHECK_EQ(asthra_ffi_last_errno(), EINVAL);
    CHECK_STR(story, "+a a-a");
    TYPED_CALL(good, looks, &asthra_type_i32, &Noted_type);
    CHECK_EQ(asthra_ffi_call(&good, (void *[]){&(Noted){"b"}}).value.integer, 7);
    CHECK_EQ(asthra_ffi_last_errno(), 0);
}

static int32_t panics(char *text) {
    if (text != NULL) asthra_panic("in C, over %s", text);
    return 0;
}
TYPED_CALL(panics_call, panics, &asthra_type_i32, &Noted_type);
#if ASTHRA_HAS_TASK
static void *calls_and_panics(void *word) {
    Noted n = {word};
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_ffi_call(&panics_call, (void *[]){&n});
    return NULL;
}

TEST(marshal, a_panic_inside_the_function_cleans_up) {
    char word[] = "a";
    CHECK_EQ(asthra_marshaler_register(&note).status, ASTHRA_OK);
    void *unused;
    AsthraResult r = asthra_await_result(asthra_spawn(calls_and_panics, word), &unused);
    CHECK_EQ(r.status, ASTHRA_PANICKED);
    CHECK_STR(story, "+a-a");
    CHECK_EQ(live_notes, 0);
}

/* The panic of a cleanup is the task's; the others are done all the same, once. */
static void forgets_and_panics(void *c_value, void *user) {
    const char *copy;
    memcpy(&copy, c_value, sizeof copy);
    bool is_bad = *copy == 'c';
    forgets(c_value, user);
    if (is_bad) asthra_panic("while cleaning up");
}
static void *calls_and_cleans_badly(void *unused) {
    Noted one = {"a"};
    Pair two = {{"b"}, 9, {"c"}}, more[] = {{{"d"}, 0, {"e"}}};
    AsthraSlice s = {more, 1, sizeof *more};
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_ffi_call(&meets_call, (void *[]){&one, &two, &s});
    return unused;
}

/* Two of them, one as the call ends and one while its panic passes. */
static void forgets_and_panics_twice(void *c_value, void *user) {
    const char *copy;
    memcpy(&copy, c_value, sizeof copy);
    bool is_bad = *copy == 'c' || *copy == 'd';
    forgets(c_value, user);
    if (is_bad) asthra_panic("while cleaning up");
}

static void *calls_what_panics(void *unused) {
    Noted n = {"c"};
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_ffi_call(&panics_call, (void *[]){&n});
    return unused;
}

static AsthraResult outcome_of(AsthraTaskFunction task) {
    void *unused;
    return asthra_await_result(asthra_spawn(task, NULL), &unused);
}

TEST(marshal, panics_of_cleanups_leave_the_others_to_be_done) {
    AsthraTypeMarshaler m = note;
    m.cleanup_c = forgets_and_panics_twice;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    CHECK_EQ(outcome_of(calls_and_cleans_badly).status, ASTHRA_PANICKED);
    CHECK_STR(story, "+a+b+c+d+e abce -e-d-c-b-a");
    story[0] = 0;
    CHECK_EQ(outcome_of(calls_what_panics).status, ASTHRA_PANICKED);
    CHECK_STR(story, "+c-c");
    CHECK_EQ(live_notes, 0);
}

/* As many as there are, on a small stack. */
enum { BAD_ONES = 400 };
static int bad_ones;
static void only_panics_away(void *c_value, void *unused) {
    (void)c_value, (void)unused;
    bad_ones++;
    asthra_panic("while cleaning up");
}
static int32_t takes_many(const void *all) {
    return all != NULL;
}
static const AsthraTypeInfo many_notes = ASTHRA_TYPE_SLICE("Noted", &Noted_type);
TYPED_CALL(many_call, takes_many, &asthra_type_i32, &many_notes);
static void *cleans_many_badly(void *unused) {
    static Noted all[BAD_ONES];
    AsthraSlice s = {all, BAD_ONES, sizeof *all};
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_ffi_call(&many_call, (void *[]){&s});
    return unused;
}

static AsthraResult passes_nothing(const void *value, void *c_out, AsthraFFIArena *a, void *user) {
    (void)value, (void)a, (void)user;
    memset(c_out, 0, sizeof(void *));
    return asthra_result_ok(NULL);
}

TEST(marshal, hundreds_of_cleanups_may_panic) {
    const AsthraTypeMarshaler m = {.asthra_type = &Noted_type,
                                   .c_type = &asthra_ffi_type_ptr,
                                   .asthra_to_c = passes_nothing,
                                   .cleanup_c = only_panics_away};
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    const AsthraSpawnOptions small = {.stack_bytes = (size_t)160 << 10};
    void *unused;
    AsthraTaskHandle task = asthra_spawn_with(&small, cleans_many_badly, NULL);
    CHECK_EQ(asthra_await_result(task, &unused).status, ASTHRA_PANICKED);
    CHECK_EQ(bad_ones, BAD_ONES);
}

/* The task goes on elsewhere, perhaps, and its panic with it. */
static atomic_int cleaned_slowly;
static void waits(void *c_value, void *unused) {
    (void)c_value, (void)unused;
    for (int i = 0; i < 3; i++) asthra_yield();
    atomic_fetch_add(&cleaned_slowly, 1);
}
static int32_t only_panics(char *text) {
    if (text == NULL) asthra_panic("in C");
    return 0;
}
static AsthraTypeMarshaler slow = {.asthra_type = &Noted_type,
                                   .c_type = &asthra_ffi_type_ptr,
                                   .asthra_to_c = passes_nothing,
                                   .cleanup_c = waits};
TYPED_CALL(only_panics_call, only_panics, &asthra_type_i32, &Noted_type);
static void *panics_slowly(void *unused) {
    Noted n = {"a"};
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_ffi_call(&only_panics_call, (void *[]){&n});
    return unused;
}

TEST(marshal, a_cleanup_may_wait_while_a_panic_passes) {
    enum { TASKS = 200 };
    AsthraTaskHandle tasks[TASKS];
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    void *unused;
    config.worker_threads = 3;
    CHECK(asthra_runtime_init(&config));
    CHECK_EQ(asthra_marshaler_register(&slow).status, ASTHRA_OK);
    for (int i = 0; i < TASKS; i++) tasks[i] = asthra_spawn(panics_slowly, NULL);
    for (int i = 0; i < TASKS; i++)
        CHECK_EQ(asthra_await_result(tasks[i], &unused).status, ASTHRA_PANICKED);
    CHECK_EQ(cleaned_slowly, TASKS);
    asthra_runtime_shutdown();
}

/* What comes back, and panics on the way. */
static AsthraResult takes_or_panics(const void *c_value, void *out, void *user) {
    char *text;
    memcpy(&text, c_value, sizeof text);
    if (*text == '!') asthra_panic("on the way back");
    return takes(c_value, out, user);
}
static char *gives_badly(void) {
    return strdup("! a bad word");
}
TYPED_CALL(badly_call, gives_badly, &Noted_type, NULL);
TYPED_CALL(badly_pair_call, answers, &Pair_type, &Noted_type);
static void *takes_badly(void *unused) {
    Noted back;
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_ffi_call_into(&badly_call, &back, NULL);
    return unused;
}
static void *takes_half(void *unused) {
    Pair back;
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_ffi_call_into(&badly_pair_call, &back, (void *[]){&(Noted){"x !"}});
    return unused;
}

TEST(marshal, a_panic_on_the_way_back_frees_what_c_gave_and_what_was_made) {
    AsthraTypeMarshaler m = note;
    m.c_to_asthra = takes_or_panics;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    badly_call.transfer = ASTHRA_TRANSFER_FULL;
    badly_call.param_count = 0;
    CHECK_EQ(asthra_ffi_set_return_free(&badly_call, counts_and_frees).status, ASTHRA_OK);
    CHECK_EQ(outcome_of(takes_badly).status, ASTHRA_PANICKED);
    CHECK_EQ(freed, 1);
    CHECK_EQ(outcome_of(takes_half).status, ASTHRA_PANICKED);
    CHECK_STR(story, "+x !~x !-x !");
}

/* The same by hand. */
static AsthraResult notes_or_panics(const void *value, void *c_out, AsthraFFIArena *a, void *user) {
    if (*((const Noted *)value)->word == '!') asthra_panic("on the way to C");
    return notes(value, c_out, a, user);
}
static void *makes_badly(void *unused) {
    Pair bad = {{"a"}, 1, {"!"}};
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_marshal_to_c(&bad, &Pair_type);
    return unused;
}
static void *frees_badly(void *unused) {
    Pair p = {{"a"}, 1, {"c"}};
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_marshal_free(asthra_marshal_to_c(&p, &Pair_type), &Pair_type);
    return unused;
}

static void drops_and_panics(void *value, void *user) {
    bool is_bad = *((Noted *)value)->word == 'c';
    drops(value, user);
    if (is_bad) asthra_panic("while ending a value");
}
static void *ends_badly(void *unused) {
    char a[] = "a", c[] = "c";
    CPair p = {a, 1, c};
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_marshal_free(asthra_marshal_to_asthra(&p, &Pair_type), &Pair_type);
    return unused;
}

TEST(marshal, by_hand_a_panic_at_the_end_of_a_value_ends_the_rest) {
    AsthraTypeMarshaler m = note;
    m.cleanup_asthra = drops_and_panics;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    CHECK_EQ(outcome_of(ends_badly).status, ASTHRA_PANICKED);
    CHECK_STR(story, "~c~a");
}

TEST(marshal, by_hand_a_panic_cleans_up_too) {
    AsthraTypeMarshaler m = note;
    m.asthra_to_c = notes_or_panics;
    m.cleanup_c = forgets_and_panics;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    CHECK_EQ(outcome_of(makes_badly).status, ASTHRA_PANICKED);
    CHECK_STR(story, "+a-a");
    CHECK_EQ(outcome_of(frees_badly).status, ASTHRA_PANICKED);
    CHECK_STR(story, "+a-a+a+c-c-a");
    CHECK_EQ(live_notes, 0);
}

TEST(marshal, a_panic_of_a_cleanup_leaves_the_others_to_be_done) {
    AsthraTypeMarshaler m = note;
    void *unused;
    m.cleanup_c = forgets_and_panics;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    AsthraResult r = asthra_await_result(asthra_spawn(calls_and_cleans_badly, NULL), &unused);
    CHECK_EQ(r.status, ASTHRA_PANICKED);
    CHECK_STR(story, "+a+b+c+d+e abce -e-d-c-b-a");
    CHECK_EQ(live_notes, 0);
}
#endif

/* errno is the function's, whatever is called on the way back. */
static AsthraResult asks_for_nothing(const void *c_value, void *out, void *user) {
    static AsthraFFICall nothing = {.function_ptr = ASTHRA_FN(remove), .signature = "i(p)"};
    static const char path[] = "/nowhere/at all", *at = path;
    (void)c_value, (void)out, (void)user;
    CHECK_EQ(asthra_ffi_call(&nothing, (void *[]){&at}).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_last_errno(), ENOENT);
    return asthra_result_ok(NULL);
}
static char *sets_errno(void) {
    static char text[] = "text";
    errno = EDOM;
    return text;
}

TEST(marshal, errno_is_what_the_function_left) {
    const AsthraTypeMarshaler asking = {
        &Noted_type, &asthra_ffi_type_ptr, NULL, asks_for_nothing, NULL, NULL, NULL};
    AsthraFFICall c;
    Noted back;
    CHECK_EQ(asthra_ffi_signature(&c, ASTHRA_FN(sets_errno), "p()").status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&c, ASTHRA_FFI_RETURN, &asking).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_call_into(&c, &back, NULL).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_last_errno(), EDOM);
    asthra_ffi_release(&c);
}

/* C's value may be aligned more strictly than anything else here. */
typedef struct Wide {
    _Alignas(64) double d;
} Wide;
static const AsthraFFIType *const wide_fields[] = {&asthra_ffi_type_f64};
static const AsthraFFIType wide_type = {ASTHRA_FFI_STRUCT, 64, 64, wide_fields, 1};
static const AsthraTypeInfo wide_info = {.name = "Wide", .size = sizeof(double), .alignment = 8};
static AsthraResult widens(const void *value, void *c_out, AsthraFFIArena *a, void *user) {
    (void)a, (void)user;
    CHECK_EQ((uintptr_t)c_out % 64, 0);
    memcpy(c_out, value, sizeof(double));
    return asthra_result_ok(NULL);
}
static AsthraResult narrows(const void *c_value, void *out, void *user) {
    (void)user;
    CHECK_EQ((uintptr_t)c_value % 64, 0);
    memcpy(out, c_value, sizeof(double));
    return asthra_result_ok(NULL);
}
static const AsthraTypeMarshaler wide = {&wide_info, &wide_type, widens, narrows, NULL, NULL, NULL};
static Wide gives_wide(void) { /* a parameter is passed by */
    Wide w = {8};
    return w;
}

TEST(marshal, values_of_c_s_lie_where_their_type_wants_it) {
    const AsthraFFIType *params[] = {&wide_type};
    AsthraFFICall c;
    double value = 4, back = 0;
    AsthraResult r = asthra_ffi_prepare(&c, ASTHRA_FN(gives_wide), &wide_type, params, 1, 1);
    CHECK_EQ(r.status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&c, 0, &wide).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&c, ASTHRA_FFI_RETURN, &wide).status, ASTHRA_OK);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(asthra_ffi_call_into(&c, &back, (void *[]){&value}).status, ASTHRA_OK);
        CHECK(back == 8);
    }
    asthra_ffi_release(&c);
}

TEST(marshal, the_transfer_of_a_whole_call_passes_marshaled_parameters_by) {
    static AsthraFFICall c = {.function_ptr = ASTHRA_FN(strlen),
                              .signature = sizeof(size_t) == 8 ? "L(p)" : "I(p)",
                              .transfer = ASTHRA_TRANSFER_FULL};
    AsthraString s = STRING("four");
    CHECK_EQ(asthra_ffi_set_marshaler(&c, 0, &asthra_marshaler_string).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_call(&c, (void *[]){&s}).value.integer, 4);
    CHECK_EQ(asthra_ffi_set_marshaler(&c, 0, NULL).status, ASTHRA_OK); /* it is handed over again */
    char *text = strcpy(asthra_manual_alloc(8), "seven..");
    CHECK_EQ(asthra_ffi_call(&c, (void *[]){&text}).value.integer, 7);
    CHECK_EQ(asthra_ffi_transferred_count(), 1);
    CHECK_EQ(asthra_ffi_reclaim(text).status, ASTHRA_OK);
    asthra_manual_free(text);
    CHECK_EQ(asthra_ffi_set_transfer(&c, 0, ASTHRA_TRANSFER_FULL).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&c, 0, &asthra_marshaler_string).status, ASTHRA_INVALID);
    asthra_ffi_release(&c);
}

TEST(marshal, what_leads_into_freed_memory_is_unsafe) {
    TYPED_CALL(call, strlen, SIZE_TYPE, &asthra_type_string);
    static const AsthraTypeInfo *const slices[] = {&asthra_type_slice};
    AsthraFFICall of_slice = call;
    char *text = asthra_manual_alloc(100);
    strcpy(text, "some text");
    AsthraString s = {9, text};
    AsthraSlice slice = {text, 10, 1};
    of_slice.param_types = slices;
    CHECK_EQ(asthra_ffi_call_safe(&call, (void *[]){&s}).value.integer, 9);
    CHECK_EQ(asthra_ffi_call_safe(&of_slice, (void *[]){&slice}).value.integer, 9);
    asthra_manual_free(text);
    HAS(asthra_ffi_call_safe(&call, (void *[]){&s}), "parameter 0 leads into freed memory");
    HAS(asthra_ffi_call_safe(&of_slice, (void *[]){&slice}), "parameter 0 leads into freed memory");
    asthra_ffi_release(&of_slice);
}

static AsthraResult latin(const void *value, void *c_out, AsthraFFIArena *a, void *user) {
    static const char *const text = "replaced";
    (void)value, (void)a, (void)user;
    memcpy(c_out, &text, sizeof text);
    return asthra_result_ok(NULL);
}
static AsthraTypeMarshaler of_string = {
    &asthra_type_string, &asthra_ffi_type_ptr, latin, NULL, NULL, NULL, NULL};
static int32_t names(CPerson p) {
    return looks(p.name);
}

TEST(marshal, a_registered_marshaler_replaces_the_built_in_one_also_inside_of_others) {
    TYPED_CALL(before, names, NULL, &Person_type);
    AsthraFFICall after = before;
    Person p = some_team.lead;
    const AsthraTypeMarshaler *old = asthra_marshaler_find(&Person_type), *built_in, *m;
    built_in = asthra_marshaler_find(&asthra_type_string);
    CHECK_EQ(asthra_ffi_call(&before, (void *[]){&p}).status, ASTHRA_OK);
    CHECK_STR(seen_copy, "Ann");
    CHECK_EQ(asthra_marshaler_register(&of_string).status, ASTHRA_OK);
    of_string.asthra_to_c = NULL; /* it was copied */
    m = asthra_marshaler_find(&asthra_type_string);
    CHECK(m != built_in && m->asthra_to_c == latin);
    CHECK_EQ(asthra_ffi_call(&before, (void *[]){&p}).status, ASTHRA_OK);
    CHECK_STR(seen_copy, "Ann"); /* prepared calls keep what they have */
    CHECK_EQ(asthra_ffi_call(&after, (void *[]){&p}).status, ASTHRA_OK);
    CHECK_STR(seen_copy, "replaced");
    CHECK(asthra_marshaler_find(&Person_type) != old);
    CHECK(old->asthra_to_c != NULL && old->c_to_asthra != NULL);
    CHECK(asthra_marshaler_find(&Person_type)->c_to_asthra == NULL);
    CHECK(asthra_marshaler_find(&Person_type) == asthra_marshaler_find(&Person_type));
    asthra_ffi_release(&after);
}

/* A string that C keeps in place. */
static const AsthraTypeInfo Label_type = {
    .name = "Label", .size = sizeof(AsthraString), .alignment = __alignof__(AsthraString)};
typedef struct Tagged {
    int8_t n;
    AsthraString label;
} Tagged;
static const AsthraFieldInfo Tagged_fields[] = {ASTHRA_FIELD(Tagged, n, &asthra_type_i8),
                                                ASTHRA_FIELD(Tagged, label, &Label_type)};
static const AsthraTypeInfo Tagged_type = STRUCT_TYPE(Tagged, NULL);
typedef struct CTagged {
    int8_t n;
    char label[9];
} CTagged;

static AsthraResult sticks(const void *value, void *c_out, AsthraFFIArena *a, void *user) {
    const AsthraString *s = value;
    (void)a, (void)user;
    if (s->length > 8) return asthra_result_errorf(ASTHRA_LIMIT, "%zu bytes", s->length);
    memcpy(memset(c_out, 0, 9), s->data, s->length);
    return asthra_result_ok(NULL);
}
static int32_t reads_label(CTagged t) {
    return looks(t.label) + t.n;
}

TEST(marshal, c_s_value_may_be_an_array_in_a_struct) {
    static const AsthraFFIType *const element[] = {&asthra_ffi_type_s8};
    static const AsthraFFIType array = {ASTHRA_FFI_ARRAY, 0, 0, element, 9};
    static const AsthraTypeMarshaler m = {&Label_type, &array, sticks, NULL, NULL, NULL, NULL};
    TYPED_CALL(call, reads_label, &asthra_type_i32, &Tagged_type);
    TYPED_CALL(alone, looks, NULL, &Label_type);
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    Tagged t = {3, STRING("in place")};
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&t}).value.integer, 10);
    CHECK_STR(seen_copy, "in place");
    char *label = asthra_marshal_to_c(&t.label, &Label_type);
    CHECK_STR(label, "in place");
    asthra_marshal_free(label, &Label_type);
    t.label = STRING("too long a label");
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&t}).status, ASTHRA_LIMIT);
    HAS(asthra_ffi_call(&alone, (void *[]){&t.label}), "parameter 0 is an array");
}

TEST(marshal, a_type_that_needed_nothing_needs_something_once_its_field_has_a_marshaler) {
    typedef struct Boxed {
        Plain plain;
    } Boxed;
    static const AsthraFieldInfo Boxed_fields[] = {ASTHRA_FIELD(Boxed, plain, &Plain_type)};
    static const AsthraTypeInfo Boxed_type = STRUCT_TYPE(Boxed, NULL);
    CHECK(asthra_marshaler_find(&Boxed_type) == NULL);
    AsthraTypeMarshaler m = note;
    m.asthra_type = &Plain_type;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    CHECK(asthra_marshaler_find(&Boxed_type) != NULL);
}

TEST(marshal, a_marshaler_that_lacks_something_is_not_registered) {
    static const AsthraFFIType empty = {ASTHRA_FFI_STRUCT, 0, 0, NULL, 0};
    AsthraTypeMarshaler m = note;
    CHECK_EQ(asthra_marshaler_register(NULL).status, ASTHRA_INVALID);
    m.asthra_type = NULL;
    HAS(asthra_marshaler_register(&m), "no asthra_type");
    m = note;
    m.c_type = NULL;
    HAS(asthra_marshaler_register(&m), "no c_type");
    m.c_type = &empty;
    HAS(asthra_marshaler_register(&m), "has no fields");
    m = note;
    m.asthra_to_c = NULL;
    m.c_to_asthra = NULL;
    HAS(asthra_marshaler_register(&m), "no function");
    CHECK(asthra_marshaler_find(&Noted_type) == NULL);
}

TEST(marshal, a_marshaler_of_one_way_is_refused_the_other) {
    TYPED_CALL(call, looks, NULL, &Pair_type);
    AsthraTypeMarshaler m = note;
    m.asthra_to_c = NULL;
    CHECK_EQ(asthra_marshaler_register(&m).status, ASTHRA_OK);
    HAS(asthra_ffi_call(&call, (void *[]){&(Pair){{NULL}, 0, {NULL}}}),
        "parameter 0: type 'Pair' goes no way to C");
    CHECK(asthra_marshal_to_c(&(Noted){"a"}, &Noted_type) == NULL);
    HAS(asthra_last_error(), "'Noted' goes no way to C");
}

/* ---- setting ---- */

TEST(marshal, a_marshaler_can_be_set_and_taken_away) {
    AsthraFFICall call;
    char *text = c_text;
    CHECK_EQ(asthra_ffi_signature(&call, ASTHRA_FN(same), "p(p)").status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 0, &note).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&call, ASTHRA_FFI_RETURN, &asthra_marshaler_string).status,
             ASTHRA_OK);
    AsthraString back;
    CHECK_EQ(call_1(&call, &back, &(Noted){"abc"}).status, ASTHRA_OK);
    CHECK_STR(back.data, "abc");
    asthra_marshaler_string.cleanup_asthra(&back, NULL);
    CHECK_STR(story, "+abc-abc");
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 0, NULL).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&call, ASTHRA_FFI_RETURN, NULL).status, ASTHRA_OK);
    CHECK(asthra_ffi_call(&call, (void *[]){&text}).value.pointer == c_text);
    asthra_ffi_release(&call);
}

TEST(marshal, a_marshaler_that_does_not_fit_is_refused) {
    static const AsthraFFIType *const good_fields[] = {&asthra_ffi_type_ptr, &asthra_ffi_type_s32},
                                      *const bad_fields[] = {&asthra_ffi_type_ptr,
                                                             &asthra_ffi_type_f32};
    static const AsthraFFIType good = {ASTHRA_FFI_STRUCT, 0, 0, good_fields, 2},
                               bad = {ASTHRA_FFI_STRUCT, 0, 0, bad_fields, 2},
                               aligned = {ASTHRA_FFI_STRUCT, 32, 32, good_fields, 2},
                               *const params[] = {&asthra_ffi_type_ptr, &asthra_ffi_type_s32,
                                                  &good};
    AsthraFFICall call;
    AsthraTypeMarshaler m = note;
    CHECK_EQ(asthra_ffi_prepare(&call, ASTHRA_FN(looks), NULL, params, 3, 3).status, ASTHRA_OK);
    HAS(asthra_ffi_set_marshaler(NULL, 0, &m), "NULL");
    HAS(asthra_ffi_set_marshaler(&call, 3, &m), "parameter 3 of 3");
    HAS(asthra_ffi_set_marshaler(&call, ASTHRA_FFI_RETURN, &m), "returns nothing");
    HAS(asthra_ffi_set_marshaler(&call, 1, &m), "c_type is not the type that is passed");
    m.c_type = &asthra_ffi_type_u32;
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 1, &m).status, ASTHRA_INVALID);
    m.c_type = NULL;
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 1, &m).status, ASTHRA_INVALID);
    m.c_type = &bad;
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 2, &m).status, ASTHRA_INVALID);
    m.c_type = &aligned;
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 2, &m).status, ASTHRA_INVALID);
    AsthraFFIType copy = good;
    m.c_type = &copy;
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 2, &m).status, ASTHRA_OK);
    m = note;
    m.asthra_to_c = NULL;
    HAS(asthra_ffi_set_marshaler(&call, 0, &m), "asthra_to_c is NULL");
    asthra_ffi_release(&call);
    CHECK_EQ(asthra_ffi_signature(&call, ASTHRA_FN(same), "p(p)").status, ASTHRA_OK);
    HAS(asthra_ffi_set_marshaler(&call, ASTHRA_FFI_RETURN,
                                 asthra_marshaler_find(&asthra_type_slice)),
        "c_to_asthra is NULL");
    asthra_ffi_release(&call);
}

TEST(marshal, what_is_marshaled_is_not_handed_over_and_the_other_way_round) {
    AsthraFFICall call;
    CHECK_EQ(asthra_ffi_signature(&call, ASTHRA_FN(same), "p(pp)").status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 0, &asthra_marshaler_string).status, ASTHRA_OK);
    AsthraResult r = asthra_ffi_set_transfer(&call, 0, ASTHRA_TRANSFER_FULL);
    CHECK_EQ(r.status, ASTHRA_INVALID);
    HAS(r, "parameter 0 is marshaled, so C gets a copy, which cannot be handed over");
    CHECK_EQ(asthra_ffi_set_transfer(&call, 0, ASTHRA_TRANSFER_NONE).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_transfer(&call, 1, ASTHRA_TRANSFER_CONTAINER).status, ASTHRA_OK);
    r = asthra_ffi_set_marshaler(&call, 1, &asthra_marshaler_string);
    CHECK_EQ(r.status, ASTHRA_INVALID);
    HAS(r, "parameter 1 is marshaled");
    CHECK_EQ(asthra_ffi_set_transfer(&call, 1, ASTHRA_TRANSFER_NONE).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 1, &asthra_marshaler_string).status, ASTHRA_OK);
    asthra_ffi_release(&call);
}

/* ---- memory ---- */

static AsthraResult fills(const void *value, void *c_out, AsthraFFIArena *a, void *user) {
    static const size_t sizes[] = {0, 1, 200, 100, 4000, 5000, 17, 300000};
    char *blocks[8];
    (void)value, (void)user;
    for (size_t i = 0; i < 8; i++) {
        blocks[i] = asthra_ffi_arena_alloc(a, sizes[i]);
        CHECK(blocks[i] != NULL && (uintptr_t)blocks[i] % _Alignof(max_align_t) == 0);
        memset(blocks[i], (int)('a' + i), sizes[i]);
        for (size_t j = 0; j < i; j++) CHECK(blocks[j] != blocks[i]);
    }
    for (size_t i = 0; i < 8; i++)
        for (size_t j = 0; j < sizes[i]; j++) CHECK(blocks[i][j] == (char)('a' + i));
    CHECK(asthra_ffi_arena_alloc(a, SIZE_MAX) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    memcpy(c_out, &blocks[7], sizeof blocks[7]);
    return asthra_result_ok(NULL);
}

static uint32_t measures(const char *text, uint32_t most) {
    return (uint32_t)strnlen(text, most);
}

TEST(marshal, temporaries_of_any_size_live_until_the_call_ends) {
    AsthraTypeMarshaler m = note;
    AsthraFFICall call;
    char large[5000];
    m.asthra_to_c = fills;
    m.cleanup_c = NULL;
    CHECK_EQ(asthra_ffi_signature(&call, ASTHRA_FN(measures), "I(pI)").status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 0, &m).status, ASTHRA_OK);
    uint32_t most = 300000;
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&m, &most}).value.integer, 300000);
    memset(large, 'x', sizeof large);
    AsthraString s = {sizeof large, large};
    CHECK_EQ(asthra_ffi_set_marshaler(&call, 0, &asthra_marshaler_string).status, ASTHRA_OK);
    CHECK_EQ(asthra_ffi_call(&call, (void *[]){&s, &most}).value.integer, 5000);
    asthra_ffi_release(&call);
    CHECK(asthra_ffi_arena_alloc(NULL, 1) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
}

/* ---- by hand ---- */

TEST(marshal, a_string_by_hand_is_the_bytes_themselves) {
    AsthraString s = {5, "hello and more"}, none = {0, NULL}, bad = {3, "a\0b"}, *back;
    char *text = asthra_marshal_to_c(&s, &asthra_type_string);
    CHECK_STR(text, "hello");
    back = asthra_marshal_to_asthra(text, &asthra_type_string);
    CHECK(back->length == 5 && back->data != text);
    CHECK_STR(back->data, "hello");
    asthra_marshal_free(text, &asthra_type_string);
    asthra_marshal_free(back, &asthra_type_string);
    text = asthra_marshal_to_c(&none, &asthra_type_string);
    CHECK_STR(text, "");
    asthra_marshal_free(text, &asthra_type_string);
    CHECK(asthra_marshal_to_c(&bad, &asthra_type_string) == NULL);
    HAS(asthra_last_error(), "NUL at byte 1");
    CHECK(asthra_marshal_to_asthra(NULL, &asthra_type_string) == NULL);
    HAS(asthra_last_error(), "asthra_marshal_to_asthra: C's string is NULL");
    asthra_marshal_free(NULL, &asthra_type_string);
}

TEST(marshal, an_optional_string_by_hand_is_bytes_or_null_without_an_error) {
    AsthraString s = STRING("x"), *there = &s, *nowhere = NULL, **back;
    asthra_result_err("something old");
    CHECK(asthra_marshal_to_c(&nowhere, &asthra_type_optional_string) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
    char *text = asthra_marshal_to_c(&there, &asthra_type_optional_string);
    CHECK_STR(text, "x");
    back = asthra_marshal_to_asthra(text, &asthra_type_optional_string);
    CHECK_STR((*back)->data, "x");
    asthra_marshal_free(back, &asthra_type_optional_string);
    asthra_marshal_free(text, &asthra_type_optional_string);
    back = asthra_marshal_to_asthra(NULL, &asthra_type_optional_string);
    CHECK(back != NULL && *back == NULL);
    asthra_marshal_free(back, &asthra_type_optional_string);
}

TEST(marshal, anything_by_hand_owns_all_that_it_leads_to) {
    Team team = some_team, *back;
    int64_t n = -12, *copy;
    CTeam *c = asthra_marshal_to_c(&team, &Team_type);
    CHECK_STR(c->second.name, "Robert");
    CHECK_STR(c->second.nick, "Bobb");
    CHECK(c->lead.nick == NULL && c->id == 3 && c->lead.color == GREEN);
    back = asthra_marshal_to_asthra(c, &Team_type);
    asthra_marshal_free(c, &Team_type);
    CHECK_STR(back->second.name.data, "Robert");
    CHECK_EQ(back->lead.age, 41);
    asthra_marshal_free(back, &Team_type);
    copy = asthra_marshal_to_c(&n, &asthra_type_i64);
    CHECK(copy != &n && *copy == -12);
    asthra_marshal_free(copy, &asthra_type_i64);
    copy = asthra_marshal_to_asthra(&n, &asthra_type_i64);
    CHECK_EQ(*copy, -12);
    asthra_marshal_free(copy, &asthra_type_i64);
    CHECK(asthra_marshal_to_c(NULL, &asthra_type_i64) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(asthra_marshal_to_c(&n, NULL) == NULL && asthra_marshal_to_asthra(&n, NULL) == NULL);
    CHECK(asthra_marshal_to_asthra(NULL, &asthra_type_i64) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
}

TEST(marshal, by_hand_cleanups_run_when_the_block_is_freed) {
    CHECK_EQ(asthra_marshaler_register(&note).status, ASTHRA_OK);
    Pair p = {{"a"}, 1, {"b"}}, bad = {{"c"}, 1, {"!"}}, *back;
    CPair *c = asthra_marshal_to_c(&p, &Pair_type);
    CHECK_STR(story, "+a+b");
    back = asthra_marshal_to_asthra(c, &Pair_type);
    asthra_marshal_free(c, &Pair_type);
    CHECK_STR(story, "+a+b-b-a");
    asthra_marshal_free(back, &Pair_type);
    CHECK_STR(story, "+a+b-b-a~b~a");
    CHECK(asthra_marshal_to_c(&bad, &Pair_type) == NULL);
    HAS(asthra_last_error(), "asthra_marshal_to_c: a bad word");
    CHECK_STR(story, "+a+b-b-a~b~a+c-c");
}

TEST_PANICS(marshal, what_is_no_result_cannot_be_freed, "is no result of asthra_marshal_to_c") {
    _Alignas(max_align_t) static char buffer[128];
    asthra_marshal_free(buffer + 64, &asthra_type_string);
}
TEST_PANICS(marshal, what_is_inside_a_result_cannot_be_freed,
            "is no result of asthra_marshal_to_c") {
    char *text = asthra_marshal_to_c(&STRING("some text"), &asthra_type_string);
    asthra_marshal_free(text + 1, &asthra_type_string);
}

/* ---- many calls, many threads ---- */

static void uses_everything(void) {
    Team team = some_team, back;
    TYPED_CALL(call, swaps, &Team_type, &Team_type);
    Node last = {STRING("c"), NULL}, first = {STRING("a long word, and others behind it"), &last};
    Node *list = &first, *list_back;
    CHECK_EQ(call_1(&call, &back, &team).status, ASTHRA_OK);
    const AsthraTypeMarshaler *m = asthra_marshaler_find(&Team_type);
    m->cleanup_asthra(&back, m->user);
    CHECK_EQ(call_1(&reads_call, &list_back, &list).status, ASTHRA_OK);
    m = asthra_marshaler_find(&maybe_node);
    m->cleanup_asthra(&list_back, m->user);
    CTeam *c = asthra_marshal_to_c(&team, &Team_type);
    asthra_marshal_free(c, &Team_type);
    story[0] = 0;
}

static atomic_long live_blocks, allocations, fail_at; /* fail_at 0: none */

static bool keeps_blocks; /* that are freed, until the process ends */

static void *counted_alloc(size_t size, void *user) {
    (void)user;
    if (atomic_fetch_add(&allocations, 1) + 1 == atomic_load(&fail_at)) return NULL;
    atomic_fetch_add(&live_blocks, 1);
    void *block = malloc(size);
    return block != NULL && size < 10000 ? memset(block, 0xa7, size) : block;
}
static void *counted_realloc(void *block, size_t size, void *user) {
    (void)user;
    if (atomic_fetch_add(&allocations, 1) + 1 == atomic_load(&fail_at)) return NULL;
    if (block == NULL) atomic_fetch_add(&live_blocks, 1);
    return realloc(block, size);
}
static void counted_free(void *block, void *user) {
    (void)user;
    atomic_fetch_sub(&live_blocks, 1);
    if (!keeps_blocks) free(block);
}
static void count_blocks(void) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.allocator = (AsthraAllocator){counted_alloc, counted_realloc, counted_free, NULL};
    c.worker_threads = 1;
    CHECK(asthra_runtime_init(&c));
}

TEST(marshal, thousands_of_calls_leak_nothing) {
    count_blocks();
    uses_everything();
    long before = atomic_load(&live_blocks), taken = atomic_load(&allocations);
    for (int i = 0; i < 5000; i++) uses_everything();
    CHECK_EQ(atomic_load(&live_blocks), before);
    CHECK(atomic_load(&allocations) > taken);
    asthra_runtime_shutdown();
}

TEST(marshal, what_no_field_covers_is_zero) {
    count_blocks();
    Team team = some_team;
    unsigned char *c = asthra_marshal_to_c(&team, &Team_type);
    for (size_t i = sizeof(int16_t); i < offsetof(CTeam, lead); i++) CHECK_EQ(c[i], 0);
    asthra_marshal_free(c, &Team_type);
    asthra_runtime_shutdown();
}

TEST_PANICS(marshal, a_result_is_freed_once, "or was freed before") {
    keeps_blocks = true;
    count_blocks();
    char *text = asthra_marshal_to_c(&STRING("some text"), &asthra_type_string);
    asthra_marshal_free(text, &asthra_type_string);
    asthra_marshal_free(text, &asthra_type_string);
}

static uint64_t length_of(CPerson p, const char *more) {
    return strlen(p.name) + strlen(more);
}
TYPED_CALL(shared_call, length_of, &asthra_type_u64, &Person_type, &asthra_type_string);

static void *calls_often(void *unused) {
    static const char letters[] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    (void)unused;
    for (size_t i = 0; i < 20000 / test_thrift(); i++) {
        Person p = {{i % 50, letters}, true, 1, NULL, RED};
        AsthraString more = {i % 60, letters};
        AsthraResult r = asthra_ffi_call(&shared_call, (void *[]){&p, &more});
        CHECK_EQ(r.status, ASTHRA_OK);
        CHECK_EQ(r.value.integer, i % 50 + i % 60);
        if (i % 1000 == 7) CHECK(asthra_marshaler_find(&Team_type) != NULL);
    }
    return NULL;
}

TEST(marshal, one_static_call_serves_eight_threads) {
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) CHECK_EQ(pthread_create(&threads[i], NULL, calls_often, NULL), 0);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
}

static void *registers(void *unused) {
    (void)unused;
    for (int i = 0; i < 200; i++) CHECK_EQ(asthra_marshaler_register(&note).status, ASTHRA_OK);
    return NULL;
}

TEST(marshal, registering_meanwhile_does_no_harm) {
    pthread_t thread;
    CHECK_EQ(asthra_marshaler_register(&note).status, ASTHRA_OK);
    CHECK_EQ(pthread_create(&thread, NULL, registers, NULL), 0);
    for (int i = 0; i < 200; i++) {
        AsthraFFICall call = {.function_ptr = ASTHRA_FN(length_of),
                              .param_types = shared_call_types,
                              .param_count = 2,
                              .return_type = &asthra_type_u64};
        Person p = some_team.lead;
        CHECK_EQ(asthra_ffi_call(&call, (void *[]){&p, &STRING("1234")}).value.integer, 7);
        CHECK(asthra_marshaler_find(&Pair_type) != NULL);
        asthra_ffi_release(&call);
    }
    pthread_join(thread, NULL);
}

/* ---- out of memory ---- */

static bool is_fine_or_told(AsthraResult r) {
    if (!r.status) return true;
    CHECK_EQ(r.status, ASTHRA_OUT_OF_MEMORY);
    return false;
}

TYPED_CALL(hungry_struct, swaps, &Team_type, &Team_type);
TYPED_CALL(hungry_list, reads, &maybe_node, &maybe_node);
TYPED_CALL(hungry_slice, joins, &asthra_type_i32, &strings);
TYPED_CALL(hungry_pair, answers, &Pair_type, &Noted_type);

static void ends(const AsthraTypeInfo *type, void *value) {
    const AsthraTypeMarshaler *m = asthra_marshaler_find(type);
    if (m != NULL)
        m->cleanup_asthra(value, m->user);
    else
        CHECK(is_fine_or_told(asthra_last_error())); /* it was found by the call before */
}

static void is_hungry(void) {
    static char long_word[1000];
    static const Noted noted = {"x y"};
    memset(long_word, 'w', sizeof long_word - 1);
    Team team = some_team, team_back;
    Node last = {{999, long_word}, NULL}, first = {STRING("a"), &last}, *list = &first, *list_back;
    AsthraString words[] = {STRING("one "), {999, long_word}};
    AsthraSlice s = {words, 2, sizeof *words};
    Pair pair = {{"a"}, 1, {"b"}}, pair_back, many[12];
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) many[i] = pair;
    if (asthra_marshaler_find(&Noted_type) == NULL &&
        !is_fine_or_told(asthra_marshaler_register(&note)))
        return;
    if (is_fine_or_told(call_1(&hungry_struct, &team_back, &team))) ends(&Team_type, &team_back);
    if (is_fine_or_told(call_1(&hungry_list, &list_back, &list))) ends(&maybe_node, &list_back);
    is_fine_or_told(call_1(&hungry_slice, NULL, &s));
    if (is_fine_or_told(call_1(&hungry_pair, &pair_back, (void *)(uintptr_t)&noted)))
        ends(&Pair_type, &pair_back);
    for (size_t i = 0; i <= sizeof many / sizeof *many; i++) {
        AsthraSlice some = {many, i, sizeof *many};
        is_fine_or_told(asthra_ffi_call(&meets_call, (void *[]){&pair.first, &pair, &some}));
    }
    CPair *c = asthra_marshal_to_c(&pair, &Pair_type);
    if (c == NULL) CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    Pair *back = c != NULL ? asthra_marshal_to_asthra(c, &Pair_type) : NULL;
    if (c != NULL && back == NULL) CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    asthra_marshal_free(back, &Pair_type);
    asthra_marshal_free(c, &Pair_type);
    char *text = asthra_marshal_to_c(&words[1], &asthra_type_string);
    if (text == NULL) CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    AsthraString *copy = text != NULL ? asthra_marshal_to_asthra(text, &asthra_type_string) : NULL;
    if (text != NULL && copy == NULL) CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    asthra_marshal_free(copy, &asthra_type_string);
    asthra_marshal_free(text, &asthra_type_string);
    CHECK_EQ(live_notes, 0);
    story[0] = 0;
}
#if ASTHRA_HAS_CLOSURE
static void sorts_hungrily(void) {
    int calls = 0;
    int32_t values[] = {5, -3};
    AsthraSlice s = {values, 2, sizeof *values};
    size_t count = 2, size = sizeof *values;
    AsthraClosure c = {ASTHRA_FN(compares), &calls};
    if (is_fine_or_told(asthra_ffi_call(&qsort_call, (void *[]){&s, &count, &size, &c})))
        CHECK_EQ(values[0], -3);
}
#else
static void sorts_hungrily(void) {}
#endif

/* Whether an allocation failed; leaves by exit, so that leak checkers look. */
__attribute__((noreturn)) static void starve(long at) {
    count_blocks();
    atomic_store(&allocations, 0);
    atomic_store(&fail_at, at);
    is_hungry();
    sorts_hungrily();
    bool was_hit = atomic_load(&allocations) >= at;
    atomic_store(&fail_at, 0);
    long before = 0;
    for (int i = 0; i < 3; i++) { /* as good as new, and nothing was lost */
        before = atomic_load(&live_blocks);
        is_hungry();
        sorts_hungrily();
    }
    CHECK_EQ(atomic_load(&live_blocks), before);
    asthra_runtime_shutdown();
    exit(was_hit ? 0 : 1);
}

TEST_WITHIN(60, marshal, every_allocation_may_fail) {
    int status = 0;
    long at = 0;
    while (status == 0) {
        CHECK(++at < 500);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) starve(at);
        CHECK_EQ(waitpid(child, &status, 0), child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
            test_fail(__FILE__, __LINE__, "allocation %ld: status %x", at, (unsigned)status);
    }
    CHECK(at > 20);
}

#endif
