# What heed stands on, found in the same way by its own build and by the installed package.
# Each function leaves an empty `problem`, or a sentence that says what is missing.

# Targets found here must be visible to whoever links heed from a directory above this one.
function(heed_make_visible target)
    get_target_property(global ${target} IMPORTED_GLOBAL)
    if(NOT global)
        set_target_properties(${target} PROPERTIES IMPORTED_GLOBAL TRUE)
    endif()
endfunction()

# Defines Eigen3::Eigen and Threads::Threads, unless the project that includes heed did already. No
# version is asked for: "3.4" misses Eigen 5 and "3.4...5" misses Debian's 3.4.0, whose version files
# accept neither.
function(heed_find_dependencies problem)
    set(${problem} "" PARENT_SCOPE)
    if(NOT TARGET Threads::Threads)
        find_package(Threads QUIET REQUIRED)
        heed_make_visible(Threads::Threads)
    endif()
    if(TARGET Eigen3::Eigen)
        return()
    endif()
    find_package(Eigen3 CONFIG QUIET)
    if(NOT TARGET Eigen3::Eigen)
        set(${problem} "heed needs Eigen 3.4 or newer (Debian and Ubuntu: libeigen3-dev); \
found none. If it is installed elsewhere, name that place with CMAKE_PREFIX_PATH." PARENT_SCOPE)
    elseif(Eigen3_VERSION VERSION_LESS 3.4 OR Eigen3_VERSION VERSION_GREATER_EQUAL 6)
        set(${problem} "heed needs Eigen 3.4 to 5.x; found ${Eigen3_VERSION} in ${Eigen3_DIR}."
            PARENT_SCOPE)
    else()
        heed_make_visible(Eigen3::Eigen)
    endif()
endfunction()

# Defines heed::io: heed::heed with JSON (safetensors headers) and stb (PNG) beside it.
function(heed_add_io_target problem)
    set(${problem} "" PARENT_SCOPE)
    if(TARGET heed::io)
        return()
    endif()
    if(NOT TARGET nlohmann_json::nlohmann_json)
        find_package(nlohmann_json CONFIG QUIET)
        if(TARGET nlohmann_json::nlohmann_json)
            heed_make_visible(nlohmann_json::nlohmann_json)
        endif()
    endif()
    find_path(HEED_STB_INCLUDE_DIR stb/stb_image_write.h
              DOC "Directory that holds stb/stb_image_write.h")
    mark_as_advanced(HEED_STB_INCLUDE_DIR)
    if(NOT TARGET nlohmann_json::nlohmann_json)
        set(${problem} "heed::io needs nlohmann-json (Debian and Ubuntu: nlohmann-json3-dev)"
            PARENT_SCOPE)
    elseif(NOT HEED_STB_INCLUDE_DIR)
        set(${problem} "heed::io needs stb/stb_image_write.h (Debian and Ubuntu: libstb-dev)"
            PARENT_SCOPE)
    else()
        add_library(heed::io INTERFACE IMPORTED GLOBAL)
        target_link_libraries(heed::io INTERFACE heed::heed nlohmann_json::nlohmann_json)
        target_include_directories(heed::io INTERFACE "${HEED_STB_INCLUDE_DIR}")
    endif()
endfunction()
