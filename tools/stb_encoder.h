// stb_image_write with what we use of it: PNG into memory. Included by contact_sheet.cpp only.
#pragma once
#pragma GCC system_header  // not our code: our warnings do not apply

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#include <stb_image_write.h>
