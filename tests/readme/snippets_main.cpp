// The other units of this program hold one snippet of the documentation each; that it compiles and
// links is the test. The snippets are not run: they read files that nobody has.
int main() {}
