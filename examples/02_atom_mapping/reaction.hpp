#pragma once
// Which atoms does a reaction have, and which of them are neighbours?
// Reads the pieces of a SMILES; knows elements and bonds, nothing of any model.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "smiles_tokenizer.hpp"

namespace atom_mapping {

struct Atom {
    std::size_t piece;    ///< its place among the pieces of the reaction
    std::string element;  ///< "C" for C, c and [13CH3-] alike
    bool aromatic = false;
    int bond_orders = 0;                  ///< their sum; aromatic bonds count 1, `~` counts 0
    std::vector<std::size_t> neighbours;  ///< atoms bonded to it, on the same side of the reaction
};

struct Reaction {
    std::vector<Piece> pieces;
    std::vector<Atom> reactants;
    std::vector<Atom> products;
};

/// Reads `reactants>>products`, molecules separated by dots, each in OpenSMILES with branches, ring
/// closures, aromatic and bracket atoms. `~` is a bond that joins the ions of one compound.
///
/// Throws SmilesError when it cannot be read, and for what a mapping cannot begin with: a missing
/// side, atoms that have numbers already, a branch or ring that is open across a dot.
[[nodiscard]] Reaction parse_reaction(std::string_view smiles);

/// The reaction with a number at each atom that has one, as in `[CH3:1]`; 0 means no number. The
/// hydrogens that SMILES leaves unsaid are written out, for brackets say them always.
[[nodiscard]] std::string write_numbered(const Reaction& reaction,
                                         const std::vector<int>& reactant_numbers,
                                         const std::vector<int>& product_numbers);

}  // namespace atom_mapping
