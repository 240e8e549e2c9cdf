# cmake -D COMPILER=... -D SOURCE=... -D INCLUDES=a|b -P compile_fail.cmake
# The source must compile as it is; with -DMISTAKE, and the flags it names, it must not, and the
# compiler must say what the source expects it to say. Its first lines:
#   // expect: <regular expression>
#   // flags: <flags of the mistake>        (optional)
cmake_minimum_required(VERSION 3.22)

file(STRINGS "${SOURCE}" expect REGEX "^// expect: " LIMIT_COUNT 1)
string(REGEX REPLACE "^// expect: " "" expect "${expect}")
file(STRINGS "${SOURCE}" flags REGEX "^// flags: " LIMIT_COUNT 1)
string(REGEX REPLACE "^// flags: " "" flags "${flags}")
separate_arguments(flags UNIX_COMMAND "${flags}")

string(REGEX REPLACE "([^|]+)" "-isystem|\\1" includes "${INCLUDES}")
string(REPLACE "|" ";" includes "${includes}")
set(compile "${COMPILER}" -std=c++20 ${includes} -c "${SOURCE}" -o /dev/null)

execute_process(COMMAND ${compile} RESULT_VARIABLE status ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
    message(FATAL_ERROR "it does not even compile without the mistake:\n${messages}")
endif()
execute_process(COMMAND ${compile} -DMISTAKE ${flags}
                RESULT_VARIABLE status ERROR_VARIABLE messages)
if(status EQUAL 0)
    message(FATAL_ERROR "the mistake compiles")
endif()
if(NOT messages MATCHES "${expect}")
    message(FATAL_ERROR "expected the compiler to say: ${expect}\nit said:\n${messages}")
endif()
