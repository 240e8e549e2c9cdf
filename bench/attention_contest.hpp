#pragma once
// What do the benchmarks of both passes of attention have in common?
// heed's views and mask of a problem, and the tables that both passes have.

#include "attention_problem.hpp"
#include "contest.hpp"

namespace bench {

inline heed::AttentionShape shape_of(const Problem& p) {
    return {.batch = p.B,
            .heads = p.H,
            .kv_heads = p.H,
            .q_len = p.Lq,
            .kv_len = p.Lk,
            .head_dim = p.D,
            .value_dim = p.D};
}

/// q, k, v or what has their shape, as heed sees it.
template <class T>
heed::TensorView<T, 4> queries_of(const Problem& p, T* memory) {
    return {memory, {p.B, p.H, p.Lq, p.D}};
}
template <class T>
heed::TensorView<T, 4> keys_of(const Problem& p, T* memory) {
    return {memory, {p.B, p.H, p.Lk, p.D}};
}

/// Calls visit(mask) with heed's mask of the problem.
template <class Visit>
void with_mask(const Problem& p, const Visit& visit) {
    if (p.window > 0)
        visit(heed::Causal::top_left() & heed::SlidingWindow{.left = p.window - 1, .right = 0});
    else if (p.causal)
        visit(heed::Causal::top_left());
    else
        visit(heed::NoMask{});
}

/// With the tables of attention.
template <class Pass>
class AttentionRegistrar : public Registrar<Pass> {
  public:
    using Registrar<Pass>::Registrar;

    template <class T>
    void add_by_length(const std::string& id, const Sizes& lengths, bool causal = false,
                       Size window = 0) {
        std::string title = type_name<T>() + ", B=1 H=12 D=64, by length";
        if (causal) title += ", causal";
        if (window > 0) title += ", window of " + std::to_string(window) + " keys";
        this->add_table(id, title, "L");
        for (Size L : lengths)
            this->template add_contest<T>({.Lq = L, .Lk = L, .causal = causal, .window = window},
                                          id, std::to_string(L), L);
    }

    void add_by_head_size(const Sizes& head_sizes) {
        this->add_table("head_size", "float, B=1 H=12 L=1024, by head size", "D");
        for (Size D : head_sizes)
            this->template add_contest<float>({.Lq = 1024, .Lk = 1024, .D = D}, "head_size",
                                              std::to_string(D), D);
    }

    void add_by_threads(const Sizes& lengths) {
        const int all = static_cast<int>(std::thread::hardware_concurrency());
        if (all < 2) return;
        this->add_table("threads", "float, B=1 H=12 D=64, several threads against one, wall clock",
                        "L, threads");
        const heed::Isa isa = heed::current_isa();
        for (int threads : std::set<int>{2, all})
            for (Size L : lengths) {
                const Problem p{.Lq = L, .Lk = L};
                const std::string row = std::to_string(L) + ", " + std::to_string(threads);
                const double x = static_cast<double>(L);
                this->template add<float>({Contender::heed, p, isa, threads, true},
                                          {"threads", row, x, "several"});
                this->template add<float>({Contender::heed, p, isa, 1, true},
                                          {"threads", row, x, "one thread"});
            }
    }
};

}  // namespace bench
