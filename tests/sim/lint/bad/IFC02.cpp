// Arguments without a port.
// finding: IFC02 on line 3
void systolora_top(const int* in, int n) {
    n += in[0];
}
