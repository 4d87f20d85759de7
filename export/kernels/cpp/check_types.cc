#include "check_types.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace check {
namespace {

struct Format {
  int mantissa;  // bits, without the leading one
  int min_exponent;
  int max_exponent;  // of the largest numbers
  std::size_t size;
  const char* name;
};

const Format& FormatOf(ddl::Type type) {
  static const Format kFormats[] = {
      {23, -126, 127, 4, "float32"}, {10, -14, 15, 2, "float16"}, {7, -126, 127, 2, "bfloat16"}};
  return kFormats[static_cast<int>(type)];
}

// 2^exponent, much faster than by std::ldexp.
double Power(int exponent) {
  const std::uint64_t bits = static_cast<std::uint64_t>(exponent + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof(power));
  return power;
}

// The exponent of a finite number that is not 0, and not subnormal in float64.
int Exponent(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<int>(bits >> 52 & 0x7ff) - 1023;
}

std::uint16_t EncodeShort(const Format& format, double value) {
  const int exponent_bits = 15 - format.mantissa;
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const auto infinity = static_cast<std::uint16_t>(((1 << exponent_bits) - 1) << format.mantissa);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | infinity | 1 << (format.mantissa - 1));
  if (std::isinf(value)) return sign | infinity;
  if (value == 0) return sign;
  int exponent = Exponent(value);
  const bool normal = exponent >= format.min_exponent;
  if (!normal) exponent = format.min_exponent;
  const int mantissa = static_cast<int>(std::fabs(value) * Power(format.mantissa - exponent));
  const int biased = normal ? exponent - format.min_exponent + 1 : 0;
  return static_cast<std::uint16_t>(sign | biased << format.mantissa | (mantissa & ((1 << format.mantissa) - 1)));
}

double DecodeShort(const Format& format, std::uint16_t bits) {
  const int exponents = (1 << (15 - format.mantissa)) - 1;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  const int biased = bits >> format.mantissa & exponents;
  const int mantissa = bits & ((1 << format.mantissa) - 1);
  if (biased == exponents) {
    return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  const int leading = biased ? 1 << format.mantissa : 0;
  return sign * (mantissa + leading) * Power(format.min_exponent + (biased ? biased - 1 : 0) - format.mantissa);
}

}  // namespace

const ddl::Type kTypes[3] = {ddl::Type::kFloat32, ddl::Type::kFloat16, ddl::Type::kBFloat16};

const char* Name(ddl::Type type) { return FormatOf(type).name; }
std::size_t Size(ddl::Type type) { return FormatOf(type).size; }

double Round(ddl::Type type, double value) {
  const Format& format = FormatOf(type);
  if (!std::isfinite(value) || value == 0) return value;
  const int exponent = std::max(Exponent(value), format.min_exponent);
  if (exponent <= format.max_exponent) {
    // The last bit of a sum with this number is worth as much as the type's last bit beside `value`.
    const double magic = std::copysign(Power(exponent - format.mantissa + 52), value);
    const double rounded = value + magic - magic;
    if (std::fabs(rounded) < Power(format.max_exponent + 1)) return std::copysign(rounded, value);
  }
  return std::copysign(std::numeric_limits<double>::infinity(), value);
}

std::vector<char> Encode(ddl::Type type, const std::vector<float>& values) {
  const std::size_t size = Size(type);
  std::vector<char> bytes(values.size() * size);
  if (type == ddl::Type::kFloat32) {
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = EncodeShort(FormatOf(type), Round(type, values[i]));
    std::memcpy(bytes.data() + i * size, &bits, size);
  }
  return bytes;
}

std::vector<float> Decode(ddl::Type type, const std::vector<char>& bytes) {
  const std::size_t size = Size(type);
  std::vector<float> values(bytes.size() / size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (type == ddl::Type::kFloat32) {
      std::memcpy(&values[i], bytes.data() + i * size, size);
    } else {
      std::uint16_t bits;
      std::memcpy(&bits, bytes.data() + i * size, size);
      values[i] = static_cast<float>(DecodeShort(FormatOf(type), bits));
    }
  }
  return values;
}

}  // namespace check
