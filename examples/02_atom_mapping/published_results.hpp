#pragma once
// Which mappings and confidences did the authors of RXNMapper publish?
// Constants only; the authors ask for a relative agreement of 1e-5.
//
// Source: tests and README of github.com/rxn4chemistry/rxnmapper. There, all but two reactions are
// first rewritten in canonical SMILES, with the molecules of each side in alphabetical order; here
// they are given as they look after that.

#include <array>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace atom_mapping {

struct PublishedResult {
    std::string_view reaction;
    std::string_view mapping;  ///< for each product atom its reactant atom, counted from 0, or -1
    double confidence;
};

inline constexpr std::array<PublishedResult, 8> published_results{{
    {"C(C)O.BrC(C)>>CCOCC", "1 0 2 4 5", 0.9754605679009868},
    {"CCO.BrCFC>>CCOCFC", "0 1 2 4 5 6", 0.9730222157275086},
    {"CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
     "0 1 2 3 15 14 13 12 11 10 9", 0.9565619900376546},
    {"C1COCCO1.CC(C)(C)OC(=O)CONC(=O)NCc1cccc2ccccc12.Cl>>O=C(O)CONC(=O)NCc1cccc2ccccc12",
     "12 11 10 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29", 0.9704424331552834},
    {"C=CCN=C=S.CNCc1ccc(C#N)cc1.NNC(=O)c1cn2c(n1)CCCC2>>"
     "C=CCn1c(-c2cn3c(n2)CCCC3)nnc1N(C)Cc1ccc(C#N)cc1",
     "0 1 2 3 19 21 22 23 24 25 26 27 28 29 18 17 4 7 6 8 9 10 11 12 13 14 15 16",
     0.919023506871605},
    {"CCBr.CC[O-]~[Na+].[H-]~[Na+]>>CCOCC", "0 1 5 4 3", 0.9606074439250337},
    {"CCOCC.[Br-]~[Na+]>>CCBr.CC[O-]~[Na+]", "0 1 5 4 3 2 6", 0.7312865053856896},
    {"CCOCC>>CCBr.CC[O-]~[Na+]", "0 1 -1 4 3 2 -1", 0.8353618859858899},
}};

inline constexpr double published_tolerance = 1e-5;  ///< relative, of a confidence

[[nodiscard]] constexpr std::optional<PublishedResult> published_result(std::string_view reaction) {
    for (const PublishedResult& result : published_results)
        if (result.reaction == reaction) return result;
    return std::nullopt;
}

/// The numbers of a published mapping.
[[nodiscard]] inline std::vector<int> reactants_in(std::string_view mapping) {
    std::istringstream text{std::string(mapping)};
    std::vector<int> reactants;
    for (int reactant = 0; text >> reactant;) reactants.push_back(reactant);
    return reactants;
}

}  // namespace atom_mapping
