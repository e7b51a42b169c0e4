// Adds two vectors with OpenCL on the first device, and compares the result with the processor's.
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <stdio.h>

#define N (1 << 20)

static const char *source = "__kernel void add(__global int *a, __global const int *b)"
                            "{ size_t i = get_global_id(0); a[i] += b[i]; }";
static cl_int a[N], b[N];

static void check(const char *step, cl_int code) {
    if (code != CL_SUCCESS) {
        fprintf(stderr, "%s failed with OpenCL error %d\n", step, code);
        _Exit(1);
    }
}

int main(void) {
    cl_platform_id platform;
    cl_device_id device;
    cl_int code;
    size_t n = N;
    char name[200] = "";
    check("search for a platform", clGetPlatformIDs(1, &platform, NULL));
    check("search for a device", clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL));
    clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof name - 1, name, NULL);
    for (int i = 0; i < N; i++) {
        a[i] = i;
        b[i] = 2 * i;
    }
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &code);
    check("context", code);
    cl_command_queue queue = clCreateCommandQueue(context, device, 0, &code);
    check("queue", code);
    cl_program program = clCreateProgramWithSource(context, 1, &source, NULL, &code);
    check("program", code);
    check("build", clBuildProgram(program, 1, &device, "", NULL, NULL));
    cl_kernel kernel = clCreateKernel(program, "add", &code);
    check("kernel", code);
    cl_mem x = clCreateBuffer(context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof a, a, &code);
    check("first buffer", code);
    cl_mem y = clCreateBuffer(context, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, sizeof b, b, &code);
    check("second buffer", code);
    check("first argument", clSetKernelArg(kernel, 0, sizeof x, &x));
    check("second argument", clSetKernelArg(kernel, 1, sizeof y, &y));
    check("run", clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &n, NULL, 0, NULL, NULL));
    check("read", clEnqueueReadBuffer(queue, x, CL_TRUE, 0, sizeof a, a, 0, NULL, NULL));
    for (int i = 0; i < N; i++) {
        if (a[i] != 3 * i) {
            fprintf(stderr, "element %d is %d\n", i, a[i]);
            return 1;
        }
    }
    printf("%d sums are right, computed on %s\n", N, name);
    return 0;
}
