#include "unicode.hpp"

#include <utf8proc.h>

#include <array>
#include <cstdio>
#include <iterator>
#include <stdexcept>
#include <vector>

#include "heed/base/contract.hpp"

namespace sentence_similarity {

namespace {

const utf8proc_uint8_t* bytes_of(std::string_view text) {
    return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

utf8proc_category_t category(char32_t c) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

[[noreturn]] void refuse(std::string_view text, std::size_t position) {
    std::array<char, 8> byte{};
    std::snprintf(byte.data(), byte.size(), "0x%02X",
                  static_cast<unsigned>(static_cast<unsigned char>(text[position])));
    throw heed::FormatError("[from_utf8] a text must be UTF-8; found the byte " +
                            std::string(byte.data()) + " at position " + std::to_string(position));
}

}  // namespace

std::u32string from_utf8(std::string_view text) {
    std::u32string result;
    for (std::size_t i = 0; i < text.size();) {
        utf8proc_int32_t c = 0;
        const std::string_view rest = text.substr(i);
        const utf8proc_ssize_t length =
            utf8proc_iterate(bytes_of(rest), static_cast<utf8proc_ssize_t>(rest.size()), &c);
        if (length <= 0) refuse(text, i);
        result += static_cast<char32_t>(c);
        i += static_cast<std::size_t>(length);
    }
    return result;
}

std::string to_utf8(std::u32string_view text) {
    std::string result;
    for (const char32_t c : text) {
        std::array<utf8proc_uint8_t, 4> bytes{};
        const utf8proc_ssize_t length =
            utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes.data());
        result.append(reinterpret_cast<const char*>(bytes.data()),
                      static_cast<std::size_t>(length));
    }
    return result;
}

std::u32string decompose(std::u32string_view text) {
    const std::string bytes = to_utf8(text);
    std::vector<utf8proc_int32_t> parts;
    const auto run = [&] {
        const utf8proc_ssize_t count = utf8proc_decompose(
            bytes_of(bytes), std::ssize(bytes), parts.data(), std::ssize(parts),
            static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE));
        if (count < 0) throw std::runtime_error(utf8proc_errmsg(count));
        return static_cast<std::size_t>(count);
    };
    parts.resize(run());  // without room, it only counts
    run();
    return {parts.begin(), parts.end()};
}

char32_t to_lower(char32_t c) {
    return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_separator(char32_t c) {
    const utf8proc_category_t kind = category(c);
    return UTF8PROC_CATEGORY_ZS <= kind && kind <= UTF8PROC_CATEGORY_ZP;
}

bool is_control(char32_t c) {
    const utf8proc_category_t kind = category(c);
    return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF ||
           kind == UTF8PROC_CATEGORY_CO;
}

bool is_punctuation(char32_t c) {
    const utf8proc_category_t kind = category(c);
    return UTF8PROC_CATEGORY_PC <= kind && kind <= UTF8PROC_CATEGORY_PO;
}

bool is_nonspacing_mark(char32_t c) {
    return category(c) == UTF8PROC_CATEGORY_MN;
}

}  // namespace sentence_similarity
