# Runs on a text of its own: a thousand sums, some of which a small model learns in seconds.
set(text "${CMAKE_CURRENT_BINARY_DIR}/${example}_sums.txt")
set(lines "")
foreach(i RANGE 999)
    math(EXPR a "${i} * 7 % 41")
    math(EXPR b "${i} * 11 % 37")
    math(EXPR sum "${a} + ${b}")
    string(APPEND lines "${a} plus ${b} is ${sum}.\n")
endforeach()
file(CONFIGURE OUTPUT "${text}" CONTENT "${lines}" @ONLY)

set(checkpoint "${CMAKE_CURRENT_BINARY_DIR}/${example}_test.safetensors")
heed_test_example(EXPECTED expected_output.txt
                  ARGUMENTS --quick --steps 60 --text "${text}" --checkpoint "${checkpoint}"
                            --prompt "1 plus" --sample 40 --temperature 0)
add_test(NAME example.${example}.clean COMMAND ${CMAKE_COMMAND} -E rm -f "${checkpoint}")
set_tests_properties(example.${example}.clean PROPERTIES FIXTURES_SETUP ${example}_clean)
set_tests_properties(example.${example} PROPERTIES FIXTURES_REQUIRED ${example}_clean)

add_test(NAME example.${example}.stops_and_goes_on
         COMMAND bash "${PROJECT_SOURCE_DIR}/tests/examples/char_model_resume_test.sh"
                 $<TARGET_FILE:${example}> "${text}")
