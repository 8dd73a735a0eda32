// Calls whose target is only known at run time.
// finding: SUB04 on line 7
// finding: SUB04 on line 8
// finding: SUB04 on line 11
// finding: SUB04 on line 20
struct Base {
    virtual int value() { return 1; }
    virtual ~Base() {}
};
struct Derived : Base {
    int value() override { return 2; }
    int other() { return 3; }
};

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    Derived d;
    Base* b = &d;
    int a = dynamic_cast<Derived*>(b) != nullptr;
}
