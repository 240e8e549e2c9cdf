# Two runs on the real weights, where they are: beside the checkout, or fetched by the demo.
heed_find_weights(rxnmapper weights)
if(weights)
    heed_test_example(EXPECTED expected_output.txt ARGUMENTS --weights "${weights}/model.safetensors")
    heed_test_example(
        NAME rings EXPECTED expected_rings.txt
        ARGUMENTS --weights "${weights}/model.safetensors" --layer 10 --head 5
                  "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F")
else()
    message(STATUS "heed: no RXNMapper weights, so ${example} is tested without them; \
fetch_weights.py gets them")
endif()

# A reaction that is none is refused before any weights are asked for.
add_test(NAME example.${example}.refusal
         COMMAND sh -c "\"$0\" 'C(C>>C'; test $? -eq 2" $<TARGET_FILE:${example}>)
