// The other units of this program hold one header each; that it links is the test.
int main() {}
