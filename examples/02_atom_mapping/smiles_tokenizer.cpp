#include "smiles_tokenizer.hpp"

namespace atom_mapping {

namespace {

bool is_digit(char c) {
    return '0' <= c && c <= '9';
}

/// How many characters the piece at the beginning of `rest` has; 0 when none begins so.
std::size_t piece_length(std::string_view rest) {
    constexpr std::string_view single = "BCNOSPFIbcnosp()~.=#-/\\";
    if (rest.starts_with("[")) {
        const std::size_t end = rest.find(']');
        return end == std::string_view::npos ? 0 : end + 1;
    }
    if (rest.starts_with("Br") || rest.starts_with("Cl") || rest.starts_with(">>")) return 2;
    if (rest.starts_with("%"))
        return rest.size() >= 3 && is_digit(rest[1]) && is_digit(rest[2]) ? 3 : 0;
    return is_digit(rest[0]) || single.find(rest[0]) != std::string_view::npos ? 1 : 0;
}

std::string why_no_piece(std::string_view rest) {
    switch (rest[0]) {
        case '[':
            return "this bracket is not closed";
        case '%':
            return "'%' must be followed by the two digits of a ring number";
        case '>':
            return "reactants and products must be separated by '>>', with agents among the "
                   "reactants: A.B>>C";
        default:
            return "no atom, bond, ring number or parenthesis begins with this character";
    }
}

}  // namespace

std::vector<Piece> split_pieces(std::string_view smiles) {
    std::vector<Piece> pieces;
    for (std::size_t begin = 0; begin < smiles.size();) {
        const std::string_view rest = smiles.substr(begin);
        const std::size_t length = piece_length(rest);
        if (length == 0) throw SmilesError(why_no_piece(rest), begin);
        pieces.push_back({std::string(rest.substr(0, length)), begin});
        begin += length;
    }
    return pieces;
}

std::vector<int> Vocabulary::ids(const std::vector<Piece>& pieces) const {
    std::vector<int> ids{tokens_.at("[CLS]")};
    for (const Piece& piece : pieces) {
        const auto id = tokens_.find(piece.text);
        if (!id) throw SmilesError("the model does not know '" + piece.text + "'", piece.position);
        ids.push_back(*id);
    }
    ids.push_back(tokens_.at("[SEP]"));
    return ids;
}

std::vector<std::string> tokens(const std::vector<Piece>& pieces) {
    std::vector<std::string> texts{"[CLS]"};
    for (const Piece& piece : pieces) texts.push_back(piece.text);
    texts.emplace_back("[SEP]");
    return texts;
}

}  // namespace atom_mapping
