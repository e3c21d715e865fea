// stb_image with what we use of it: from memory, three formats (its PNM reader overflows and returns
// uninitialised memory), a bound on the size. Included by image_file.cpp only.
#pragma once
#pragma GCC system_header  // not our code: our warnings do not apply

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_MAX_DIMENSIONS 8192
#include <stb_image.h>
