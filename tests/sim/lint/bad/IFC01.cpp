// No top function.
// finding: IFC01 on line 1
void another_name(int n) {
    n += 1;
}
