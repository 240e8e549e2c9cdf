# Its own picture with random weights: as near to PyTorch as rounding allows.
set(png "${CMAKE_CURRENT_BINARY_DIR}/${example}_test.png")
heed_test_example(EXPECTED expected_output.txt ARGUMENTS --png "${png}")
heed_test_example(NAME classes EXPECTED expected_classes.txt ARGUMENTS --no-rollout --top 2)

add_test(NAME example.${example}.command_line
         COMMAND bash "${PROJECT_SOURCE_DIR}/tests/examples/vit_command_line_test.sh"
                 $<TARGET_FILE:${example}>)
