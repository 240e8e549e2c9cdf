# Runs on the real weights, where they are: beside the checkout, or fetched by the demo.
heed_find_weights(all-MiniLM-L6-v2 weights)
if(weights)
    heed_test_example(EXPECTED expected_output.txt ARGUMENTS --weights "${weights}")
    heed_test_example(NAME search EXPECTED expected_search.txt
                      ARGUMENTS --weights "${weights}" --top 2
                                --search "${CMAKE_CURRENT_SOURCE_DIR}/${example}/sample_lines.txt"
                                "How do I get rich?" "Who is a good friend?")
else()
    message(STATUS "heed: no weights of all-MiniLM-L6-v2, so ${example} is tested without them; \
fetch_weights.py gets them")
endif()

# What cannot be done is told in a sentence, with exit status 1.
add_test(NAME example.${example}.refusal
         COMMAND sh -c "message=$(\"$0\" --weights /no/such/folder 2>&1); test $? -eq 1 && \
                        echo \"$message\" | grep '^There are no weights in /no/such/folder'"
                 $<TARGET_FILE:${example}>)
