#include "ort_contract.h"

namespace ddl {
namespace {

template <class Role, std::size_t kCount>
constexpr Arguments<Role> All(const Argument<Role> (&items)[kCount]) {
  return {items, kCount};
}

constexpr Argument<InputRole> kRewriteInputs[] = {{kState, "state"},
                                                  {kDirection, "direction"},
                                                  {kContext, "context"},
                                                  {kTargetInput, "target_input"},
                                                  {kGateWeight, "gate_weight"},
                                                  {kGateBias, "gate_bias"},
                                                  {kTargetWeight, "target_weight"},
                                                  {kTargetBias, "target_bias"},
                                                  {kOverride, "override"}};
constexpr Argument<InputRole> kCompressInputs[] = {
    {kState, "state"}, {kCompressWeight, "weight"}, {kNormWeight, "norm_weight"}};
constexpr Argument<InputRole> kTokenCompressInputs[] = {
    {kState, "state"}, {kHistory, "history"}, {kCompressWeight, "weight"}, {kNormWeight, "norm_weight"}};
constexpr Argument<InputRole> kRewriteCompressInputs[] = {{kState, "state"},
                                                          {kDirection, "direction"},
                                                          {kContext, "context"},
                                                          {kTargetInput, "target_input"},
                                                          {kGateWeight, "gate_weight"},
                                                          {kGateBias, "gate_bias"},
                                                          {kTargetWeight, "target_weight"},
                                                          {kTargetBias, "target_bias"},
                                                          {kCompressWeight, "compress_weight"},
                                                          {kNormWeight, "norm_weight"},
                                                          {kOverride, "override"}};
constexpr Argument<InputRole> kRewriteTokenCompressInputs[] = {{kState, "state"},
                                                               {kDirection, "direction"},
                                                               {kContext, "context"},
                                                               {kTargetInput, "target_input"},
                                                               {kGateWeight, "gate_weight"},
                                                               {kGateBias, "gate_bias"},
                                                               {kTargetWeight, "target_weight"},
                                                               {kTargetBias, "target_bias"},
                                                               {kHistory, "history"},
                                                               {kCompressWeight, "compress_weight"},
                                                               {kNormWeight, "norm_weight"},
                                                               {kOverride, "override"}};

constexpr Argument<OutputRole> kRewriteOutputs[] = {{kNewState, "new_state"},   {kBeta, "beta"},
                                                    {kGateLogit, "gate_logit"}, {kTarget, "target"},
                                                    {kReadout, "readout"},      {kDirectionNorm, "direction_norm"}};
constexpr Argument<OutputRole> kCompressOutputs[] = {{kCompressed, "compressed"}, {kCompressedContext, "context"}};
constexpr Argument<OutputRole> kRewriteCompressOutputs[] = {
    {kNewState, "new_state"}, {kCompressed, "compressed"},       {kCompressedContext, "next_context"},
    {kBeta, "beta"},          {kGateLogit, "gate_logit"},        {kTarget, "target"},
    {kReadout, "readout"},    {kDirectionNorm, "direction_norm"}};

constexpr Argument<AttributeRole> kRewriteAttributes[] = {
    {kDirectionEps, "direction_eps"}, {kTargetScale, "target_scale"}, {kErases, "erases"}};
constexpr Argument<AttributeRole> kCompressAttributes[] = {{kNormEps, "norm_eps"}};
constexpr Argument<AttributeRole> kRewriteCompressAttributes[] = {
    {kDirectionEps, "direction_eps"}, {kTargetScale, "target_scale"}, {kNormEps, "norm_eps"}, {kErases, "erases"}};

}  // namespace

const Operator kOperators[kOperatorCount] = {
    {"DeltaRewrite", All(kRewriteInputs), All(kRewriteOutputs), All(kRewriteAttributes), true, false, false},
    {"CompressNorm", All(kCompressInputs), All(kCompressOutputs), All(kCompressAttributes), false, true, false},
    {"TokenCompressNorm", All(kTokenCompressInputs), All(kCompressOutputs), All(kCompressAttributes), false, true,
     true},
    {"DeltaRewriteCompressNorm", All(kRewriteCompressInputs), All(kRewriteCompressOutputs),
     All(kRewriteCompressAttributes), true, true, false},
    {"DeltaRewriteTokenCompressNorm", All(kRewriteTokenCompressInputs), All(kRewriteCompressOutputs),
     All(kRewriteCompressAttributes), true, true, true},
};

const OperatorVersion kOperatorVersions[kOperatorCount + 1] = {
    {&kOperators[0], 1, 2, false, false}, {&kOperators[0], 2, 3, true, true}, {&kOperators[1], 1, 1, false, true},
    {&kOperators[2], 1, 1, false, true},  {&kOperators[3], 1, 4, true, true}, {&kOperators[4], 1, 4, true, true},
};

}  // namespace ddl
