#include <stdio.h>

int main(void)
{
    puts("t2 0.1.0");
    return 0;
}
