#pragma once
// Where do PNG compression and a font come from?
// stb, compiled inside a namespace of heed's own, so that it meets neither another unit's copy nor
// the one that the including program may have, whatever that has configured.

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma push_macro("INCLUDE_STB_IMAGE_WRITE_H")
#pragma push_macro("INCLUDE_STB_EASY_FONT_H")
#pragma push_macro("STB_IMAGE_WRITE_IMPLEMENTATION")
#pragma push_macro("STB_IMAGE_WRITE_STATIC")
#pragma push_macro("STBI_WRITE_NO_STDIO")
#pragma push_macro("STBIWDEF")
#undef INCLUDE_STB_IMAGE_WRITE_H
#undef INCLUDE_STB_EASY_FONT_H
#undef STB_IMAGE_WRITE_IMPLEMENTATION
#undef STB_IMAGE_WRITE_STATIC
#undef STBI_WRITE_NO_STDIO
#undef STBIWDEF
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
namespace heed::inline v0::detail::stb {
#include <stb/stb_easy_font.h>
#include <stb/stb_image_write.h>
}  // namespace heed::inline v0::detail::stb
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#pragma pop_macro("INCLUDE_STB_IMAGE_WRITE_H")
#pragma pop_macro("INCLUDE_STB_EASY_FONT_H")
#pragma pop_macro("STB_IMAGE_WRITE_IMPLEMENTATION")
#pragma pop_macro("STB_IMAGE_WRITE_STATIC")
#pragma pop_macro("STBI_WRITE_NO_STDIO")
#pragma pop_macro("STBIWDEF")
