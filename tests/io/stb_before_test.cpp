// Can a program that uses stb itself include heed? Here stb comes first, configured by the program.

#include <gtest/gtest.h>

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

#include "heed/io/heatmap.hpp"
#include "heed/tensor/tensor.hpp"
#include "io/files.hpp"

TEST(StbBefore, BothWrite) {
    const files::TemporaryFolder folder;
    const unsigned char pixel[] = {1, 2, 3};
    stbi_flip_vertically_on_write(1);  // of the program's copy, not of heed's
    EXPECT_NE(stbi_write_png((folder / "own.png").c_str(), 1, 1, 3, pixel, 3), 0);
    heed::write_heatmap_png(folder / "heed.png", heed::Tensor<float, 2>({2, 2}, {1, 0, 0, 0}));
    EXPECT_FALSE(files::read(folder / "own.png").empty());
    EXPECT_FALSE(files::read(folder / "heed.png").empty());
}
