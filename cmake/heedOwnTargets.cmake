# Tests, benches and examples: everything a build of heed makes beyond the library itself.
# Flags stop at these targets; heed::heed carries none.

if(PROJECT_IS_TOP_LEVEL)
    set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
    get_property(heed_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
    if(NOT CMAKE_BUILD_TYPE AND NOT heed_multi_config)
        set(CMAKE_BUILD_TYPE Release)
    endif()
    find_program(HEED_CCACHE ccache)
    mark_as_advanced(HEED_CCACHE)
    if(HEED_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
        set(CMAKE_CXX_COMPILER_LAUNCHER ${HEED_CCACHE})
    endif()
endif()
enable_testing()

# Data that may lie beside a checkout; whoever uses it asks first whether it is there.
get_filename_component(HEED_SHARED_DIR "${PROJECT_SOURCE_DIR}/../shared" ABSOLUTE)

# heed_own_target(<target>): our warnings, and errors of them when asked.
function(heed_own_target target)
    set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
    target_link_libraries(${target} PRIVATE heed::heed)
    # At -O3, g++ 12 sees overlapping copies in "text" + string (its bug 105651).
    target_compile_options(${target} PRIVATE
        -Wall -Wextra -Wpedantic -Wconversion -Wshadow
        $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>
        $<$<BOOL:${HEED_WERROR}>:-Werror>)
endfunction()

# heed_test_output(<test> EXPECTED <file> COMMAND <program> [<argument>...]): passes when the
# program succeeds and prints what the file says (cmake/CompareOutput.cmake tells how).
function(heed_test_output test)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "EXPECTED" "COMMAND")
    add_test(NAME ${test}
             COMMAND ${CMAKE_COMMAND} -D EXPECTED=${arg_EXPECTED}
                     -P ${PROJECT_SOURCE_DIR}/cmake/CompareOutput.cmake -- ${arg_COMMAND})
endfunction()

# heed_test_help(<target>): every program of ours explains itself, naming its options.
function(heed_test_help target)
    heed_test_output(help.${target} EXPECTED ${PROJECT_SOURCE_DIR}/cmake/expected_help.txt
                     COMMAND $<TARGET_FILE:${target}> --help)
endfunction()

# heed_add_part(<PART> <directory> <problem>): adds the directory unless something it needs is
# missing; that is an error for ON and a note for AUTO.
function(heed_add_part part directory problem)
    if(NOT HEED_BUILD_${part})
        return()
    elseif(NOT problem)
        add_subdirectory(${directory})
    elseif(HEED_BUILD_${part} STREQUAL "AUTO")
        message(STATUS "heed: no ${directory}: ${problem}")
    else()
        message(FATAL_ERROR "HEED_BUILD_${part} is ON, but ${problem}")
    endif()
endfunction()

if(HEED_GTEST_SOURCE)
    add_subdirectory("${HEED_GTEST_SOURCE}" googletest EXCLUDE_FROM_ALL)
else()
    find_package(GTest CONFIG QUIET)
endif()
find_package(CLI11 CONFIG QUIET)
set(problem "${heed_io_problem}")
if(NOT TARGET CLI11::CLI11)
    set(problem "the examples need CLI11 (Debian and Ubuntu: libcli11-dev)")
endif()
heed_add_part(EXAMPLES examples "${problem}")

# Behind the examples, whose parts they test.
set(problem "${heed_io_problem}")
if(NOT TARGET GTest::gmock_main)
    set(problem "the tests need GoogleTest (Debian and Ubuntu: libgtest-dev, libgmock-dev)")
endif()
heed_add_part(TESTS tests "${problem}")

find_package(benchmark CONFIG QUIET)
set(problem "")
if(NOT TARGET benchmark::benchmark)
    set(problem "the benches need Google Benchmark (Debian and Ubuntu: libbenchmark-dev)")
endif()
heed_add_part(BENCH bench "${problem}")
