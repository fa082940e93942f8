/* consumer - a C++ program that uses the parts whose C is not obviously C++. */
#include "asthra_rt.h"
#include "asthra_rt.h"

namespace {
struct Node {
    Node *next;
};

void *twice(void *value) {
    int *n = static_cast<int *>(value);
    *n *= 2;
    return n;
}

ASTHRA_TASK(Node *, next_of, (Node, node), (const int, times)) {
    for (int i = 1; i < times; i++) node = *node.next;
    return node.next;
}
ASTHRA_TASK_VOID(halve, (int *, n)) {
    *n /= 2;
}
ASTHRA_TASK0(long double, two) {
    return 2;
}

ASTHRA_CHANNEL_TYPE(Nodes, Node *);

AsthraResult refuse(void *args) {
    return *static_cast<bool *>(args) ? asthra_result_err("refused") : asthra_result_ok(nullptr);
}

AsthraResult scoped(bool refuses) {
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, refuse, &refuses, sizeof refuses);
    }
    ASTHRA_TRY(s.result);
    return asthra_result_ok(nullptr);
}

AsthraResult tried(AsthraResult r) {
    ASTHRA_TRY(r);
    return asthra_result_ok(nullptr);
}
} // namespace

int main() {
    int n = 21;
    if (asthra_await(asthra_spawn(twice, &n)) != &n || n != 42) return 1;
    AsthraChannel *c = asthra_channel_create(sizeof n, 1, "cpp");
    if (!c || asthra_channel_send(c, &n).status != ASTHRA_OK) return 2;
    int out = 0;
    AsthraSelectBuilder *b = asthra_select_builder_create();
    asthra_select_builder_add_receive(b, c, &out);
    if (asthra_select_execute(b) != 0 || out != 42) return 3;
    asthra_select_builder_destroy(b);
    asthra_channel_destroy(c);
    Node last = {nullptr}, first = {&last};
    if (next_of_await(next_of_go(first, 1)) != &last) return 6;
    halve_await(halve_go(&n));
    if (n != 21 || two_await(two_go()) != 2) return 7;
    Nodes nodes = Nodes_create(1);
    Node *node = nullptr;
    if (Nodes_send(nodes, &first).status || !Nodes_receive(nodes, &node) || node != &first)
        return 8;
    bool chosen = false;
    ASTHRA_SELECT(s) {
        if (Nodes_case_receive(&s, nodes, &node)) return 9;
        else if (Nodes_case_send(&s, nodes, &node)) chosen = s.ok;
        else if (asthra_case_timeout(&s, ASTHRA_MS(1))) return 9;
    }
    if (!chosen) return 9;
    Nodes_destroy(nodes);
    if (!asthra_result_is_ok(scoped(false)) || asthra_result_is_ok(scoped(true))) return 10;
    AsthraMutex m;
    asthra_mutex_init(&m);
    if (!asthra_mutex_try_lock(&m)) return 4;
    asthra_mutex_unlock(&m);
    asthra_mutex_destroy(&m);
    return asthra_result_is_ok(tried(asthra_result_err("refused"))) ? 5 : 0;
}
