#pragma once
// What kind of character is this, by Unicode's tables?
// UTF-8 and code points, by way of utf8proc; knows nothing of tokens.

#include <string>
#include <string_view>

namespace sentence_similarity {

/// The characters of a text in UTF-8. Throws heed::FormatError at the first byte that begins none.
[[nodiscard]] std::u32string from_utf8(std::string_view text);

[[nodiscard]] std::string to_utf8(std::u32string_view text);

/// Every character taken apart, é into e and its accent (Unicode's normal form NFD).
[[nodiscard]] std::u32string decompose(std::u32string_view text);

/// The lower-case letter of one character; the character itself where there is none.
[[nodiscard]] char32_t to_lower(char32_t c);

/// Blanks and ends of lines and paragraphs (Zs, Zl, Zp).
[[nodiscard]] bool is_separator(char32_t c);

/// Control, formatting and private-use characters (Cc, Cf, Co).
[[nodiscard]] bool is_control(char32_t c);

/// Punctuation of any kind (Pc, Pd, Ps, Pe, Pi, Pf, Po).
[[nodiscard]] bool is_punctuation(char32_t c);

/// Marks that take no place of their own, such as accents (Mn).
[[nodiscard]] bool is_nonspacing_mark(char32_t c);

}  // namespace sentence_similarity
