// Calls whose target is only known at run time.
// finding: SUB04 on line 6
// finding: SUB04 on line 9
// finding: SUB04 on line 17
struct Base {
    virtual int value() { return 1; }
};
struct Derived : Base {
    int value() override { return 2; }
};

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    Derived d;
    Base* b = &d;
    int a = dynamic_cast<Derived*>(b) != nullptr;
}
