// A function that is to exist once, called in four places.
// finding: PAR02 on line 14
static int half(const int *buffer, int n)
{
#pragma HLS INLINE off
    return buffer[n] / 2;
}

void systolora_top(int n, int &sum)
{
#pragma HLS INTERFACE mode=s_axilite port=sum
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS ALLOCATION instances=half limit=1 type=function
    int a[4] = {n};
    int b[4] = {n};
    switch (n) {
    case 0:
        sum = half(a, 0);
        break;
    case 1:
        sum = half(a, 1);
        break;
    default:
        sum = half(b, 1);
        break;
    }
}
