#pragma once
// Which error does a call throw, and what does it say?
// Runs the call once; used by the typed-error tests of every room.

#include <gtest/gtest.h>

#include <exception>
#include <string>

#include "heed/base/contract.hpp"

namespace support {

/// The text of the `Kind` that the call throws; a test failure, and the reason, for anything else.
template <class Kind, class Call>
std::string error_text(const Call& call) {
    try {
        call();
    } catch (const Kind& error) {
        return error.what();
    } catch (const std::exception& error) {
        ADD_FAILURE() << "another kind of error: " << error.what();
        return error.what();
    }
    ADD_FAILURE() << "nothing thrown";
    return "nothing thrown";
}

}  // namespace support
