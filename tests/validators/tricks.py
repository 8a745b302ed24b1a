"""Ways to evaluate a ReLU without calling it one. x is (N, 4, 6, 6): 144 elements an image."""

from __future__ import annotations

ELEMENTS = 144

# Name -> lines of a graph from x to y that must count at least ELEMENTS ReLU-like elements, or be refused.
BODIES = {
    "relu": "y = Relu(x)",
    "dead relu": "d = Relu(x) y = Identity(x)",
    "max with zero": "z = Constant<value_float = 0.0>() y = Max(x, z)",
    "max with itself": "n = Neg(x) y = Max(x, n)",
    "min": "z = Constant<value_float = 0.0>() y = Min(x, z)",
    "clip": "z = Constant<value_float = 0.0>() y = Clip(x, z)",
    "clip above": "z = Constant<value_float = 0.0>() y = Clip(x, , z)",
    "abs": "y = Abs(x)",
    "reduce l1": """s = Constant<value_ints = [0, 4, 6, 6, 1]>() u = Reshape(x, s) v = ReduceL1<axes = [4]>(u)
        y = Identity(x)""",
    "reduce l2": """s = Constant<value_ints = [0, 4, 6, 6, 1]>() u = Reshape(x, s) v = ReduceL2<axes = [4]>(u)
        y = Identity(x)""",
    "sqrt of square": "s = Mul(x, x) y = Sqrt(s)",
    "power one half": "h = Constant<value_float = 0.5>() s = Mul(x, x) y = Pow(s, h)",
    "power of itself": "y = Pow(x, x)",
    "sign": "s = Sign(x) y = Mul(x, s)",
    "greater": "z = Constant<value_float = 0.0>() c = Greater(x, z) y = Where(c, x, z)",
    "less or equal": "z = Constant<value_float = 0.0>() c = LessOrEqual(x, z) y = Where(c, z, x)",
    "greater cast": "z = Constant<value_float = 0.0>() c = Greater(x, z) m = Cast<to = 1>(c) y = Mul(x, m)",
    "cast to integer": "i = Cast<to = 6>(x) y = Cast<to = 1>(i)",
    "cast to byte": "i = Cast<to = 2>(x) y = Cast<to = 1>(i)",
    "cast to bool": "i = Cast<to = 9>(x) y = Cast<to = 1>(i)",
    "leaky relu": "y = LeakyRelu<alpha = 0.0>(x)",
    "prelu": "z = Constant<value_float = 0.0>() y = PRelu(x, z)",
    "thresholded relu": "y = ThresholdedRelu<alpha = 0.0>(x)",
    "elu": "y = Elu<alpha = 0.0>(x)",
    "selu": "y = Selu(x)",
    "celu": "y = Celu(x)",
    "hard sigmoid": "y = HardSigmoid(x)",
    "hard swish": "y = HardSwish(x)",
    "shrink": "y = Shrink(x)",
    "softplus": "y = Softplus(x)",
    "steep sigmoid": "k = Constant<value_float = 1e6>() s = Mul(x, k) g = Sigmoid(s) y = Mul(x, g)",
    "tanh": "y = Tanh(x)",
    "erf": "y = Erf(x)",
    "log of exp": "e = Exp(x) y = Log(e)",
    "floor": "y = Floor(x)",
    "ceil": "y = Ceil(x)",
    "round": "y = Round(x)",
    "mod": "k = Constant<value_float = 9.0>() y = Mod<fmod = 1>(x, k)",
    "division": "y = Div(x, x)",
    "reciprocal": "y = Reciprocal(x)",
    "quantise": "s = Constant<value_float = 0.1>() q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)",
    "max over a stack": """k = Constant<value_float = 0.0>() z = Mul(x, k) a = Constant<value_ints = [4]>()
        u = Unsqueeze(x, a) v = Unsqueeze(z, a) w = Concat<axis = 4>(u, v)
        y = ReduceMax<axes = [4], keepdims = 0>(w)""",
    "scatter with max": """i = Constant<value_ints = [0]>() u = Identity(x) z = Shape(x) s = ConstantOfShape(z)
        j = Cast<to = 7>(s) y = ScatterElements<axis = 1, reduction = "max">(x, j, u)""",
    "scatter of many into one": """a = Constant<value_ints = [1]>() f = Flatten(x) u = ReduceSum<keepdims = 1>(f, a)
        z = Constant<value_ints = [0]>() n = Shape(f) j = Expand(z, n) y = Identity(x)
        m = ScatterElements<axis = 1, reduction = "max">(u, j, f)""",
    "high power": "k = Constant<value_float = 64.0>() y = Pow(x, k)",
    "pool over a stack": """k = Constant<value_float = 0.0>() z = Mul(x, k) s = Constant<value_ints = [0, 4, 1, 36]>()
        u = Reshape(x, s) v = Reshape(z, s) w = Concat<axis = 2>(u, v) p = MaxPool<kernel_shape = [2, 1]>(w)
        t = Constant<value_ints = [0, 4, 6, 6]>() y = Reshape(p, t)""",
    "pool over zeros set between": """k = Constant<value = float[1, 1, 2, 2] {1.0, 0.0, 0.0, 0.0}>()
        s = Constant<value_ints = [-1, 1, 6, 6]>() t = Constant<value_ints = [-1, 4, 6, 6]>()
        u = Reshape(x, s) w = ConvTranspose<strides = [2, 2]>(u, k)
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(w) y = Reshape(p, t)""",
    "pool over grouped zeros": """k = Constant<value = float[4, 1, 2, 2]
        {1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0}>()
        w = ConvTranspose<strides = [2, 2], group = 4>(x, k) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(w)""",
    "pool over far padding": """k = Constant<value = float[4, 1, 1, 1] {1.0, 1.0, 1.0, 1.0}>()
        w = Conv<group = 4, pads = [0, 0, 6, 0]>(x, k)
        y = MaxPool<kernel_shape = [2, 1], dilations = [6, 1]>(w)""",
    "pool over a border": """k = Constant<value = float[4, 1, 1, 2] {0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0}>()
        w = Conv<group = 4, pads = [0, 1, 0, 1]>(x, k) y = MaxPool<kernel_shape = [1, 2]>(w)""",
    "batch norm by computed variance": """r = Constant<value_ints = [1, -1]>() v = Constant<value_ints = [-1]>()
        k = Constant<value_float = 1.0>() b = Constant<value_ints = [-1, 4, 6, 6]>() u = Reshape(x, r) s = Mul(u, u)
        var = Reshape(s, v) zero = Sub(var, var) one = Add(zero, k)
        n = BatchNormalization<epsilon = 1e-20>(u, one, zero, zero, var) w = Reshape(n, b) y = Mul(w, x)""",
    "rounding": """k = Constant<value_float = 0.00390625>() h = Constant<value_float = 0.5>()
        b = Constant<value_float = 8388608.0>() t = Mul(x, k) u = Add(t, h) v = Add(u, b) s = Sub(v, b)
        y = Mul(x, s)""",
    "rounding by a bias": """k = Constant<value = float[4, 1, 1, 1] {0.01, 0.01, 0.01, 0.01}>()
        b = Constant<value_floats = [8388608.0, 8388608.0, 8388608.0, 8388608.0]>() v = Conv<group = 4>(x, k, b)
        m = Constant<value_float = -4096.0>() n = Constant<value_float = 2048.0>() c = Mul(m, n) s = Add(v, c)
        y = Mul(x, s)""",
    "cast to half": "k = Constant<value_float = 3e-8>() t = Mul(x, k) h = Cast<to = 10>(t) y = Cast<to = 1>(h)",
    "cast from double": "d = Cast<to = 11>(x) s = Mul(d, d) y = Cast<to = 1>(s)",
    "images beyond the hundredth": """a = Constant<value_ints = [0]>() b = Constant<value_ints = [100]>()
        e = Constant<value_ints = [2147483647]>() u = Slice(x, a, b, a) v = Slice(x, b, e, a) r = Relu(v)
        y = Concat<axis = 0>(u, r)""",
    "images between": """a = Constant<value_ints = [0]>() b = Constant<value_ints = [64]>()
        t = Constant<value_ints = [2]>() k = Constant<value_ints = [300]>() h = Shape(x) n = Gather(h, a)
        m = Mul(n, t) e = Sub(k, m) v = Slice(x, b, e, a) r = Relu(v) y = Identity(x)""",
    "endless loop": """m = Constant<value_int = 1152921504606846976>() c = Constant<value_int = 1>() d = Cast<to = 9>(c)
        y = Loop(m, d, x) <body = l (int64 i, bool go, float[N, 4, 6, 6] s) => (bool stay, float[N, 4, 6, 6] r)
            { stay = Identity(go) r = Mul(s, s) }>""",
    "pool across channels": """w = DepthToSpace<blocksize = 2>(x) p = MaxPool<kernel_shape = [2, 2]>(w) y = Identity(x)
        q = MaxPool<kernel_shape = [2, 2], pads = [1, 1, 1, 1]>(w)""",
    "pool indices": "p, i = MaxPool<kernel_shape = [2, 1], pads = [1, 0, 0, 0]>(x) y = Identity(p)",
    "top k": """k = Constant<value_float = 0.0>() z = Mul(x, k) a = Constant<value_ints = [4]>()
        n = Constant<value_ints = [1]>() u = Unsqueeze(x, a) v = Unsqueeze(z, a) w = Concat<axis = 4>(u, v)
        t, i = TopK(w, n) y = Squeeze(t, a)""",
    "arg max": """k = Constant<value_float = 0.0>() z = Mul(x, k) a = Constant<value_ints = [4]>()
        u = Unsqueeze(z, a) v = Unsqueeze(x, a) w = Concat<axis = 4>(u, v) i = ArgMax<axis = 4, keepdims = 0>(w)
        m = Cast<to = 1>(i) y = Mul(x, m)""",
    "softmax": """k = Constant<value_float = 0.0>() z = Mul(x, k) a = Constant<value_ints = [4]>()
        u = Unsqueeze(z, a) v = Unsqueeze(x, a) w = Concat<axis = 4>(u, v) y4 = Softmax<axis = 4>(w) y = Identity(x)""",
    "normalise pairs": """s = Constant<value_float = 1.0>() b = Constant<value_float = 0.0>()
        y = LayerNormalization<axis = -1>(x, s, b)""",
    "if": """c = Constant<value_ints = [0]>() d = Cast<to = 9>(c)
        y = If (d) <then_branch = t () => (float[N, 4, 6, 6] a) { a = Identity(x) },
                    else_branch = e () => (float[N, 4, 6, 6] b) { b = Relu(x) }>""",
    "loop": """m = Constant<value_int = 3>() c = Constant<value_int = 1>() d = Cast<to = 9>(c)
        y = Loop(m, d, x) <body = l (int64 i, bool go, float[N, 4, 6, 6] s) => (bool stay, float[N, 4, 6, 6] r)
            { stay = Identity(go) r = Relu(s) }>""",
    "loop of unknown length": """k = Constant<value_float = 1.0>() f = ReduceSum<keepdims = 0>(x) m = Cast<to = 7>(f)
        c = Constant<value_int = 1>() d = Cast<to = 9>(c)
        y = Loop(m, d, x) <body = l (int64 i, bool go, float[N, 4, 6, 6] s) => (bool stay, float[N, 4, 6, 6] r)
            { stay = Identity(go) r = Relu(s) }>""",
    "scan": """y = Scan(x) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
            body = l (float[N, 6, 6] s) => (float[N, 6, 6] r) { r = Relu(s) }>""",
    "custom operator": "y = evil.Fast(x)",
    "computed index": """f = Flatten(x) i = Cast<to = 7>(f) y = Identity(x) g = Gather<axis = 1>(f, i)""",
    "non zero": "n = NonZero(x) y = Identity(x)",
    "unknown operator": "y = Identity(x) d = Det(x)",
    "hardmax": "y = Hardmax<axis = -1>(x)",
    "bit cast": "i = Identity(x) y = NonMaxSuppression(i, i)",
    "training batch norm": """s = Constant<value_floats = [1.0, 1.0, 1.0, 1.0]>() b = Identity(s)
        y, m, v = BatchNormalization<training_mode = 1>(x, s, b, s, b)""",
}

# Name -> whole files: functions that hide a ReLU.
FILES = {
    "in a function": "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { y = ai.aurep.Polynomial(x) }"
    '<domain: "ai.aurep", opset_import: ["" : 17]> Polynomial (a) => (b) { b = Relu(a) }',
    "in a nested function": "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { y = evil.Outer(x) }"
    '<domain: "evil", opset_import: ["" : 17, "two" : 1]> Outer (a) => (b) { b = two.Identity(a) }'
    '<domain: "two", opset_import: ["" : 17]> Identity (a) => (b) { b = Relu(a) }',
    "in a body of a function": "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { y = evil.Outer(x) }"
    '<domain: "evil", opset_import: ["" : 17]> Outer (a) => (b) { c = Constant<value_int = 0>() d = Cast<to = 9>(c)'
    " b = If (d) <then_branch = t () => (float e) { e = Relu(a) }, else_branch = s () => (float f) { f = Relu(a) }> }",
    "standard name redefined": "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { y = Neg(x) }"
    '<domain: "", opset_import: ["" : 17]> Neg (a) => (b) { b = Relu(a) }',
    "function that calls itself": "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { y = evil.F(x) }"
    '<domain: "evil", opset_import: ["" : 17, "evil" : 1]> F (a) => (b) { b = evil.F(a) }',
}
