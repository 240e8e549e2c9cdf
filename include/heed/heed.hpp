#pragma once
// All of heed but io/: tensors, operations, attention, modules, training.
// Files and pictures (heed/io/*.hpp) bring further dependencies and are included by name.

#include "heed/attention/explain.hpp"
#include "heed/attention/scaled_dot_product_attention.hpp"
#include "heed/attention/scaled_dot_product_attention_backward.hpp"
#include "heed/base/config.hpp"
#include "heed/base/contract.hpp"
#include "heed/base/thread_pool.hpp"
#include "heed/nn/transformer.hpp"
#include "heed/ops/activation.hpp"
#include "heed/ops/cross_entropy.hpp"
#include "heed/ops/dropout.hpp"
#include "heed/ops/embedding.hpp"
#include "heed/ops/linear.hpp"
#include "heed/ops/norm.hpp"
#include "heed/ops/softmax.hpp"
#include "heed/tensor/print.hpp"
#include "heed/tensor/random.hpp"
#include "heed/tensor/tensor.hpp"
#include "heed/train/adamw.hpp"
#include "heed/train/clipping.hpp"
#include "heed/train/learning_rate.hpp"
