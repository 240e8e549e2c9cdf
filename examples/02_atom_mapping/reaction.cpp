#include "reaction.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <optional>
#include <span>

namespace atom_mapping {

namespace {

bool is_upper(char c) {
    return std::isupper(static_cast<unsigned char>(c)) != 0;
}
bool is_lower(char c) {
    return std::islower(static_cast<unsigned char>(c)) != 0;
}
bool is_digit(char c) {
    return std::isdigit(static_cast<unsigned char>(c)) != 0;
}
bool is_atom(const Piece& piece) {
    return is_upper(piece.text[0]) || is_lower(piece.text[0]) || piece.text[0] == '[';
}
bool is_ring_number(const Piece& piece) {
    return is_digit(piece.text[0]) || piece.text[0] == '%';
}

/// Reads the inside of a bracket from left to right:
/// isotope, symbol, chirality, hydrogens, charge.
class BracketReader {
  public:
    explicit BracketReader(const Piece& piece)
        : piece_(piece), rest_(std::string_view(piece.text).substr(1, piece.text.size() - 2)) {}

    /// The symbol, in lower case for an aromatic atom.
    std::string symbol() {
        skip_while(is_digit);
        const std::string found = take_symbol();
        skip('@'), skip('@');
        if (skip('H')) skip_while(is_digit);
        take_charge();
        if (rest_.starts_with(":"))
            throw SmilesError("the reaction must not have atom numbers yet: write " +
                                  piece_.text.substr(0, piece_.text.find(':')) + "]",
                              piece_.position);
        if (!rest_.empty()) refuse();
        return found;
    }

  private:
    [[noreturn]] void refuse() const {
        throw SmilesError("'" + piece_.text + "' is no atom", piece_.position);
    }
    bool skip(char c) {
        if (!rest_.starts_with(c)) return false;
        rest_.remove_prefix(1);
        return true;
    }
    void skip_while(bool (*belongs)(char)) {
        while (!rest_.empty() && belongs(rest_[0])) rest_.remove_prefix(1);
    }
    std::string take(std::size_t count) {
        const std::string taken(rest_.substr(0, count));
        rest_.remove_prefix(count);
        return taken;
    }
    std::string take_symbol() {
        if (rest_.empty()) refuse();
        if (is_upper(rest_[0])) return take(rest_.size() > 1 && is_lower(rest_[1]) ? 2 : 1);
        for (const std::string_view aromatic : {"se", "as", "te", "si"})
            if (rest_.starts_with(aromatic)) return take(2);
        if (std::string_view("bcnops").find(rest_[0]) == std::string_view::npos) refuse();
        return take(1);
    }
    void take_charge() {
        if (rest_.starts_with("+") || rest_.starts_with("-")) {
            const char sign = rest_[0];
            skip(sign);
            if (!skip(sign)) skip_while(is_digit);
        }
    }

    const Piece& piece_;
    std::string_view rest_;
};

Atom make_atom(const Piece& piece, std::size_t index) {
    std::string symbol = piece.text[0] == '[' ? BracketReader(piece).symbol() : piece.text;
    Atom atom{.piece = index, .element = symbol, .aromatic = is_lower(symbol[0]), .neighbours = {}};
    atom.element[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(symbol[0])));
    return atom;
}

int bond_order(const Piece* bond) {
    if (bond == nullptr) return 1;
    return bond->text == "=" ? 2 : bond->text == "#" ? 3 : bond->text == "~" ? 0 : 1;
}

/// Reads one side of a reaction, piece by piece.
class SideReader {
  public:
    /// `first` is the place of the side's first piece in the reaction.
    SideReader(std::span<const Piece> pieces, std::size_t first) : pieces_(pieces), first_(first) {}

    std::vector<Atom> atoms() {
        for (place_ = 0; place_ < pieces_.size(); ++place_) {
            const Piece& piece = pieces_[place_];
            if (is_atom(piece))
                add_atom(piece);
            else if (is_ring_number(piece))
                open_or_close_ring(piece);
            else if (piece.text == "(")
                open_branch(piece);
            else if (piece.text == ")")
                close_branch(piece);
            else if (piece.text == ".")
                end_molecule(piece);
            else
                add_bond(piece);
        }
        require_complete();
        if (!atoms_.empty() && !last_atom_) refuse("a molecule is missing after", pieces_.back());
        return std::move(atoms_);
    }

  private:
    struct RingEnd {
        std::size_t atom;
        const Piece* bond;
        const Piece* number;
    };

    [[noreturn]] static void refuse(const std::string& problem, const Piece& piece) {
        throw SmilesError(problem + " '" + piece.text + "'", piece.position);
    }
    void require_atom_before(const Piece& piece) const {
        if (!last_atom_) refuse("there must be an atom before", piece);
        if (pieces_[place_ - 1].text == "(") refuse("a branch must not begin with", piece);
    }
    void require_no_bond_before(const Piece& piece) const {
        if (bond_ != nullptr) refuse("a bond must not be followed by", piece);
    }

    void add_atom(const Piece& piece) {
        atoms_.push_back(make_atom(piece, first_ + place_));
        const std::size_t atom = atoms_.size() - 1;
        if (last_atom_) connect(*last_atom_, atom, bond_order(bond_), piece);
        last_atom_ = atom;
        bond_ = nullptr;
    }

    void add_bond(const Piece& piece) {
        if (!last_atom_) refuse("there must be an atom before", piece);
        require_no_bond_before(piece);
        bond_ = &piece;
    }

    void open_branch(const Piece& piece) {
        require_atom_before(piece);
        require_no_bond_before(piece);
        branches_.push_back({*last_atom_, &piece});
    }

    void close_branch(const Piece& piece) {
        if (branches_.empty()) refuse("no branch is open before", piece);
        require_atom_before(piece);
        require_no_bond_before(piece);
        last_atom_ = branches_.back().atom;
        branches_.pop_back();
    }

    void open_or_close_ring(const Piece& piece) {
        require_atom_before(piece);
        const int number = std::stoi(piece.text.substr(piece.text[0] == '%' ? 1 : 0));
        const auto open = rings_.find(number);
        if (open == rings_.end()) {
            rings_.emplace(number, RingEnd{*last_atom_, bond_, &piece});
        } else {
            const RingEnd& other = open->second;
            const Piece* const bond = bond_ != nullptr ? bond_ : other.bond;
            if (other.bond != nullptr && bond_order(bond) != bond_order(other.bond))
                refuse("both ends of a ring closure must have the same bond; they differ at",
                       piece);
            connect(other.atom, *last_atom_, bond_order(bond), piece);
            rings_.erase(open);
        }
        bond_ = nullptr;
    }

    void end_molecule(const Piece& piece) {
        if (!last_atom_) refuse("a molecule is missing before", piece);
        require_complete();
        last_atom_.reset();
    }

    /// Nothing may be left open where a molecule ends.
    void require_complete() const {
        if (bond_ != nullptr) refuse("there must be an atom after", *bond_);
        if (!branches_.empty())
            refuse("this branch is not closed in its molecule:", *branches_.back().opening);
        if (!rings_.empty())
            refuse("this ring is not closed in its molecule:", *rings_.begin()->second.number);
    }

    void connect(std::size_t a, std::size_t b, int order, const Piece& piece) {
        const auto& known = atoms_[a].neighbours;
        if (a == b || std::find(known.begin(), known.end(), b) != known.end())
            refuse("two different atoms, not bonded yet, must meet at ring number", piece);
        for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
            atoms_[from].neighbours.push_back(to);
            atoms_[from].bond_orders += order;
        }
    }

    struct Branch {
        std::size_t atom;
        const Piece* opening;
    };

    std::span<const Piece> pieces_;
    std::size_t first_;
    std::size_t place_ = 0;
    std::vector<Atom> atoms_;
    std::optional<std::size_t> last_atom_;
    const Piece* bond_ = nullptr;  ///< the bond symbol behind the last atom
    std::vector<Branch> branches_;
    std::map<int, RingEnd> rings_;
};

/// The hydrogens that SMILES leaves unsaid for an atom without brackets: as many as bring it to
/// the lowest normal valence that its bonds allow. An aromatic atom has one more bond than is
/// drawn, and never a higher valence. Source: the OpenSMILES specification, 3.1.5 and 3.5.
int implicit_hydrogens(const Atom& atom) {
    static const std::map<std::string, std::vector<int>> valences{
        {"B", {3}},       {"C", {4}}, {"N", {3, 5}}, {"O", {2}},  {"P", {3, 5}},
        {"S", {2, 4, 6}}, {"F", {1}}, {"Cl", {1}},   {"Br", {1}}, {"I", {1}}};
    const std::vector<int>& normal = valences.at(atom.element);
    if (atom.aromatic) return std::max(0, normal.front() - atom.bond_orders - 1);
    for (const int valence : normal)
        if (valence >= atom.bond_orders) return valence - atom.bond_orders;
    return 0;
}

std::string numbered_atom(const std::string& text, const Atom& atom, int number) {
    const std::string end = ":" + std::to_string(number) + "]";
    if (text[0] == '[') return text.substr(0, text.size() - 1) + end;
    const int hydrogens = implicit_hydrogens(atom);
    const std::string count = hydrogens > 1 ? std::to_string(hydrogens) : "";
    return "[" + text + (hydrogens > 0 ? "H" : "") + count + end;
}

}  // namespace

Reaction parse_reaction(std::string_view smiles) {
    Reaction reaction{.pieces = split_pieces(smiles), .reactants = {}, .products = {}};
    const auto is_arrow = [](const Piece& piece) { return piece.text == ">>"; };
    const std::span<const Piece> pieces(reaction.pieces);
    const auto arrow = std::find_if(pieces.begin(), pieces.end(), is_arrow);
    if (arrow == pieces.end())
        throw SmilesError("a reaction must have the form reactants>>products", smiles.size());
    const auto second = std::find_if(arrow + 1, pieces.end(), is_arrow);
    if (second != pieces.end()) throw SmilesError("there must be one '>>'", second->position);

    const auto split = static_cast<std::size_t>(arrow - pieces.begin());
    reaction.reactants = SideReader(pieces.first(split), 0).atoms();
    reaction.products = SideReader(pieces.subspan(split + 1), split + 1).atoms();
    if (reaction.reactants.empty()) throw SmilesError("there are no reactants", 0);
    if (reaction.products.empty()) throw SmilesError("there are no products", smiles.size());
    return reaction;
}

std::string write_numbered(const Reaction& reaction, const std::vector<int>& reactant_numbers,
                           const std::vector<int>& product_numbers) {
    std::vector<std::string> texts;
    for (const Piece& piece : reaction.pieces) texts.push_back(piece.text);
    const auto number_side = [&](const std::vector<Atom>& atoms, const std::vector<int>& numbers) {
        for (std::size_t i = 0; i < atoms.size(); ++i)
            if (numbers.at(i) != 0)
                texts[atoms[i].piece] = numbered_atom(texts[atoms[i].piece], atoms[i], numbers[i]);
    };
    number_side(reaction.reactants, reactant_numbers);
    number_side(reaction.products, product_numbers);
    std::string result;
    for (const std::string& text : texts) result += text;
    return result;
}

}  // namespace atom_mapping
